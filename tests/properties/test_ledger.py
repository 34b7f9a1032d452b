"""The ledger against a model of it: whatever is called, in whatever order and however often, the sums agree."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)

from gateway import money
from gateway.database import Failure
from gateway.database.postgres import Postgres
from tests.harness.builders import (
    COMPLETION_PRICE,
    PROMPT_PRICE,
    UNLIMITED,
    a_caller,
    a_model,
    a_request,
    a_settlement,
    of,
)

if TYPE_CHECKING:
    from tests.harness.builders import Connection
    from tests.harness.postgres import Database

COUNTS = (200, 50) if os.environ.get("CI") else (30, 30)
EXAMPLES = settings(
    max_examples=COUNTS[0],
    stateful_step_count=COUNTS[1],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
MODEL_TOKENS = 1000
LEAST_TOKENS = 16
SWEEP = "update gateway.credit_holds set expires_at = now() where id = $1 and state = 'held'"
REVOKE = "update gateway.api_keys set status = $2 where id = $1"
LEDGER = """
select u.credits_nano, u.held_nano,
       (select coalesce(sum(amount_nano), 0) from gateway.credit_transactions where user_id = u.id),
       (select coalesce(sum(bound_nano), 0) from gateway.credit_holds where user_id = u.id and state = 'held'),
       (select coalesce(-sum(amount_nano), 0) from gateway.credit_transactions where user_id = u.id and kind = 'usage'),
       (select coalesce(sum(cost_nano), 0) from gateway.usage_records where user_id = u.id),
       (select coalesce(sum(cost_nano), 0) from gateway.key_usage where key_id = $2 and day = '-infinity'),
       (select count(*) from gateway.ledger_violations)
  from gateway.users u where u.id = $1
"""
HOLDS = "select id::text, state, bound_nano, cost_nano from gateway.credit_holds where user_id = $1"
USAGE = """
select reference, amount_nano from gateway.credit_transactions where user_id = $1 and kind = 'usage'
"""


class Hold(msgspec.Struct):
    """What the model knows of a hold, and what its request may use."""

    id: str
    bound: int
    prompt: int
    completion: int
    state: str = "held"
    cost: int | None = None


def price(prompt: int, completion: int) -> int:
    return money.cost((prompt, PROMPT_PRICE), (completion, COMPLETION_PRICE))


class Ledger(RuleBasedStateMachine):
    """One fresh user, and the calls that its requests could make."""

    loop: asyncio.Runner
    operator: Connection
    transport: Postgres

    holds = Bundle("holds")
    calls = Bundle("calls")

    def __init__(self) -> None:
        super().__init__()
        self.caller = self.loop.run(a_caller(self.operator, credit_nano=0))
        self.credits = 0
        self.known: dict[str, Hold] = {}
        self.granted: set[str] = set()
        self.revoked = False

    def call(self, name: str, arguments: dict[str, Any]) -> Any:
        return self.loop.run(self.transport.call(name, arguments))

    def refusal(self, name: str, arguments: dict[str, Any]) -> tuple[str, str] | None:
        """How a call is refused, if it is."""
        try:
            self.call(name, arguments)
        except Failure as failure:
            return failure.code, failure.message
        return None

    @property
    def held(self) -> int:
        return sum(hold.bound for hold in self.known.values() if hold.state == "held")

    @rule(amount=st.integers(1, 3_000_000), reference=st.sampled_from("abcdefgh"), target=calls)
    def grant(self, amount: int, reference: str) -> Any:
        reference = f"{self.caller.user_id}:{reference}"
        arguments = {
            "user_id": self.caller.user_id, "reference": reference, "amount_nano": amount, "reason": "",
            "actor": {"name": "test"},
        }  # fmt: skip
        is_first = reference not in self.granted
        self.credits += amount if is_first else 0
        self.granted.add(reference)
        answer = self.call("grant", arguments)
        assert (answer["granted"], answer["credits_nano"]) == (is_first, self.credits)
        return "grant", arguments

    @rule(prompt=st.integers(1, 300), asked=st.none() | st.integers(1, 1200), choices=st.integers(1, 3), target=holds)
    def authorize(self, prompt: int, asked: int | None, choices: int) -> Any:
        request = a_request(self.caller, prompt_tokens=prompt, max_tokens=asked, choices=choices)
        cap = min(asked or MODEL_TOKENS, MODEL_TOKENS)
        available = self.credits - self.held
        tokens = min(cap, (available - price(prompt, 0)) // price(0, choices)) if available >= price(prompt, 0) else -1
        if self.revoked:
            assert self.refusal("authorize", request) == ("PT401", "invalid_api_key")
            return multiple()
        if tokens < min(cap, LEAST_TOKENS):
            refused = self.refusal("authorize", request)
            assert refused in {("PT402", "insufficient_credits"), ("PT402", "in_flight_budget")}
            return multiple()
        answer = self.call("authorize", request)
        bound = price(prompt, tokens * choices)
        assert (answer["bound_nano"], answer["max_tokens"]) == (bound, None if tokens == cap else tokens)
        assert available >= bound
        assert self.call("authorize", request) == answer
        self.known[request["hold_id"]] = Hold(request["hold_id"], bound, prompt, tokens * choices)
        return self.known[request["hold_id"]]

    def settled(self, hold: Hold, cost: int) -> tuple[str, dict[str, Any]]:
        """Settles, as often as it is asked to, and charges the first time."""
        arguments = a_settlement(self.caller, hold.id, cost)
        is_first = hold.state != "settled"
        if is_first:
            self.credits -= cost
            hold.state, hold.cost = "settled", cost
        answer = self.call("settle", arguments)
        assert answer == {"state": "settled" if is_first else "repeated", "credits_nano": self.credits}
        return "settle", arguments

    @rule(hold=holds, share=st.fractions(0, 1), other=st.fractions(0, 1), target=calls)
    def settle_within(self, hold: Hold, share: Any, other: Any) -> Any:
        """Usage within what was asked costs no more than was held; and taken apart it is not cheaper."""
        prompt, completion = int(hold.prompt * share), int(hold.completion * other)
        cost = price(prompt, completion)
        assert 0 <= cost <= hold.bound
        assert cost <= price(prompt, 0) + price(0, completion)
        assert cost <= price(prompt + 1, completion)
        return self.settled(hold, cost)

    @rule(hold=holds, above=st.integers(0, 100_000), target=calls)
    def settle_at_or_above(self, hold: Hold, above: int) -> Any:
        return self.settled(hold, hold.bound + above)

    @rule(cost=st.integers(0, 100_000), target=calls)
    def settle_a_lost_hold(self, cost: int) -> Any:
        lost = Hold(str(uuid4()), 0, 0, 0, state="expired")
        self.known[lost.id] = lost
        return self.settled(lost, cost)

    @rule(hold=holds, target=calls)
    def release(self, hold: Hold) -> Any:
        arguments = of(self.caller, hold.id)
        assert self.call("release", arguments) == {"released": hold.state == "held"}
        hold.state = "released" if hold.state == "held" else hold.state
        return "release", arguments

    @rule(hold=holds)
    def expire(self, hold: Hold) -> None:
        self.loop.run(self.operator.execute(SWEEP, hold.id))
        assert self.call("expire_holds", {}) == {"expired": 1 if hold.state == "held" else 0}
        hold.state = "expired" if hold.state == "held" else hold.state

    @rule(hold=holds)
    def admit_again(self, hold: Hold) -> None:
        """A hold admits one request: sent again while it is held it is the same, and after that it is refused."""
        request = a_request(self.caller, hold_id=hold.id, prompt_tokens=1, max_tokens=1)
        refused = self.refusal("authorize", request)
        if self.revoked:
            assert refused == ("PT401", "invalid_api_key")
        elif hold.state == "held":
            assert refused is None
        else:
            assert refused is not None
            assert refused[0] in {"PT409", "PT402"}

    @rule(call=calls)
    def repeat(self, call: tuple[str, dict[str, Any]]) -> None:
        """Any earlier call, sent again, changes nothing: the invariants compare with a model that did not move."""
        answer = self.call(*call)
        assert answer.get("granted") in {None, False}
        assert answer.get("state") in {None, "repeated"}
        assert answer.get("released") in {None, False}

    @precondition(lambda self: len(self.known) > 2 or self.revoked)
    @rule()
    def revoke_or_restore(self) -> None:
        self.revoked = not self.revoked
        status = "revoked" if self.revoked else "active"
        self.loop.run(self.operator.execute(REVOKE, self.caller.key_id, status))

    @invariant()
    def sums_agree(self) -> None:
        user_id = self.caller.user_id
        row = self.loop.run(self.operator.fetchrow(LEDGER, user_id, self.caller.key_id))
        assert row is not None
        credits, held, transactions, open_holds, used, recorded, by_key, violations = row
        costs = sum(hold.cost or 0 for hold in self.known.values())
        assert credits == transactions == self.credits
        assert held == open_holds == self.held
        assert used == recorded == by_key == costs
        assert violations == 0

    @invariant()
    def each_hold_is_where_it_should_be_and_charged_once(self) -> None:
        rows = self.loop.run(self.operator.fetch(HOLDS, self.caller.user_id))
        expected = {hold.id: (hold.state, hold.bound, hold.cost) for hold in self.known.values()}
        assert {row[0]: tuple(row)[1:] for row in rows} == expected
        usage = self.loop.run(self.operator.fetch(USAGE, self.caller.user_id))
        charged = Counter({hold.id: hold.cost for hold in self.known.values() if hold.cost})
        assert Counter({row[0]: -row[1] for row in usage}) == charged
        assert len(usage) == len(charged)


@pytest.mark.slow("200 runs of 50 steps, each a database call: fewer would not meet rare orders")
def test_the_ledger_is_as_its_model(database: Database) -> None:
    with asyncio.Runner() as loop:
        operator = loop.run(asyncpg.connect(database.admin))
        transport = loop.run(_prepare(operator, database))
        machine = type("FreshLedger", (Ledger,), {"loop": loop, "operator": operator, "transport": transport})
        try:
            run_state_machine_as_test(machine, settings=EXAMPLES)
        finally:
            loop.run(transport.close())
            loop.run(operator.close())


async def _prepare(operator: Connection, database: Database) -> Postgres:
    await operator.execute(UNLIMITED)
    await a_model(operator, "acme/one")
    return Postgres(database.service)
