"""What is bought, given, spent, taken back and ended, against a model of it: in whatever order, and however often."""

from __future__ import annotations

import asyncio
import os
import secrets
from typing import TYPE_CHECKING, Any

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, rule, run_state_machine_as_test

from gateway.database import Failure
from gateway.database.postgres import Postgres
from tests.harness.builders import UNLIMITED, Caller, a_caller, a_model, a_request, a_settlement, insert, of

if TYPE_CHECKING:
    from tests.harness.builders import Connection
    from tests.harness.postgres import Database

COUNTS = (200, 50) if os.environ.get("CI") else (30, 30)
EXAMPLES = settings(
    max_examples=COUNTS[0], stateful_step_count=COUNTS[1], deadline=None, suppress_health_check=list(HealthCheck)
)
CENT = 10_000_000
LEAST_CENTS = 1000
REWARDS = {"referrer": 5_000_000_000, "referee": 2_000_000_000}
ACTOR = {"name": "test", "user_id": None}
TERMS = "update gateway.referral_terms set referrer_nano = $1, referee_nano = $2"
GRANTS = """
select t.reference, g.user_id, g.amount_nano, g.remaining_nano, g.clawed_nano, g.expired_nano
  from gateway.credit_grants g join gateway.credit_transactions t on t.id = g.transaction_id where g.user_id = any ($1)
"""
PURSE = "select credits_nano, held_nano, frozen_nano from gateway.users where id = $1"
LEFT = """
select coalesce(sum(remaining_nano), 0) from gateway.credit_grants
 where user_id = $1 and expires_at <= now() and not is_frozen
"""
END_ONE = """
update gateway.credit_grants set expires_at = now() - interval '1 second' where id = (
  select id from gateway.credit_grants where user_id = $1 and expires_at > now() order by id limit 1)
"""


class Payment(msgspec.Struct):
    """What the model knows of a payment, and what Stripe would say of it."""

    id: int
    user: Caller
    cents: int
    card: str
    paid: bool = False
    refunded: int = 0
    lost: int = 0
    disputed: int = 0
    bonus: str | None = None

    @property
    def gone(self) -> int:
        return min(self.cents, self.refunded + self.lost)

    def facts(self) -> dict[str, Any]:
        return {
            "status": "paid" if self.paid else "pending", "paid_cents": self.cents, "currency": "usd",
            "intent_id": f"pi_{self.id}", "card_fingerprint": self.card, "refunded_cents": self.refunded,
            "lost_cents": self.lost, "is_disputed": self.disputed > 0,
        }  # fmt: skip


class Grant(msgspec.Struct):
    """A grant of the model: how much of it was to be taken back in all."""

    user: Caller
    amount: int
    back: int = 0


def share(amount: int, gone: int, cents: int) -> int:
    """So much of an amount as went back of a payment, rounded up."""
    return -(-amount * gone // cents)


class Books(RuleBasedStateMachine):
    """Two users, the second of whom came by the first, and all that moves their credits."""

    loop: asyncio.Runner
    operator: Connection
    transport: Postgres

    payments = Bundle("payments")
    holds = Bundle("holds")

    def __init__(self) -> None:
        super().__init__()
        self.users = [self.loop.run(a_caller(self.operator, credit_nano=0)) for _ in range(2)]
        first, second = (caller.user_id for caller in self.users)
        self.loop.run(insert(self.operator, "referrals", user_id=second, referrer_id=first))
        self.loop.run(insert(self.operator, "referral_codes", user_id=first, code=secrets.token_hex(4).upper()))
        self.name = secrets.token_hex(6).upper()
        self.grants: dict[str, Grant] = {}
        self.spent = {caller.user_id: 0 for caller in self.users}
        self.waiting: dict[int, tuple[int, str]] = {}
        self.rewarded_by: Payment | None = None
        self.made: list[Payment] = []

    def call(self, name: str, **arguments: Any) -> Any:
        return self.loop.run(self.transport.call(name, arguments))

    def unless(self, refusals: set[str], name: str, **arguments: Any) -> Any:
        """What a call answers; None when it is refused with one of these."""
        try:
            return self.call(name, **arguments)
        except Failure as refused:
            if refused.message not in refusals:
                raise
            return None

    def purse(self, caller: Caller) -> tuple[int, int, int]:
        row = self.loop.run(self.operator.fetchrow(PURSE, caller.user_id))
        assert row is not None
        return row[0], row[1], row[2]

    # ------------------------------------------------------------------------------------------ given

    @rule(who=st.integers(0, 1), dollars=st.integers(1, 20), name=st.sampled_from("abcd"), ends=st.booleans())
    def grant(self, who: int, dollars: int, name: str, *, ends: bool) -> None:
        caller, reference = self.users[who], f"{self.name}:{name}"
        is_first = reference not in self.grants
        self.grants.setdefault(reference, Grant(caller, dollars * 100 * CENT))
        at = self.loop.run(self.operator.fetchval("select now() + interval '1 day'")) if ends else None
        told = self.call(
            "grant", user_id=caller.user_id, reference=reference, amount_nano=dollars * 100 * CENT, reason="",
            actor=ACTOR, kind="promotional", expires_at=at,
        )  # fmt: skip
        assert told["granted"] is is_first

    @rule(who=st.integers(0, 1), percent=st.none() | st.integers(1, 100), name=st.sampled_from("XYZ"))
    def redeem(self, who: int, percent: int | None, name: str) -> None:
        """A coupon of a credit or of a bonus; again, or with a bonus waiting, it is refused."""
        caller, code = self.users[who], f"{self.name}-{name}"
        self.loop.run(self.operator.execute(
            "insert into gateway.coupons (code, kind, credit_nano, percent) values ($1, 'promotional', $2, $3)"
            " on conflict do nothing", code, None if percent else 3 * 100 * CENT, percent,
        ))  # fmt: skip
        given = self.unless(
            {"coupon_already_redeemed", "coupon_bonus_waiting"},
            "redeem",
            user_id=caller.user_id,
            code=code,
            actor=ACTOR,
        )
        if given is None:
            return
        found = self.loop.run(self.operator.fetchval(
            "select max(id) from gateway.coupon_redemptions where user_id = $1", caller.user_id
        ))  # fmt: skip
        if given["percent"] is None:
            self.grants[f"coupon:{found}"] = Grant(caller, 3 * 100 * CENT)
        else:
            assert caller.user_id not in self.waiting
            self.waiting[caller.user_id] = (given["percent"], f"coupon:{found}")

    # ------------------------------------------------------------------------------------------ paid, and back

    @rule(who=st.integers(0, 1), cents=st.integers(500, 5000), card=st.sampled_from(["one", "two"]), target=payments)
    def open(self, who: int, cents: int, card: str) -> Any:
        caller = self.users[who]
        opened = self.call(
            "open_payment", user_id=caller.user_id, kind="checkout", amount_cents=cents, credit_nano=cents * CENT,
            key=None, request_hash="", actor=ACTOR,
        )  # fmt: skip
        payment = Payment(opened["id"], caller, cents, f"{self.name}-{card}-{who}")
        self.made.append(payment)
        return payment

    @rule(payment=payments, twice=st.booleans())
    def pay(self, payment: Payment, *, twice: bool) -> None:
        if not payment.paid:
            payment.paid = True
            self._pays_out(payment)
        self._record(payment, twice=twice)

    def _pays_out(self, payment: Payment) -> None:
        """What the first time that a payment is paid brings."""
        self.grants[f"payment:{payment.id}"] = Grant(payment.user, payment.cents * CENT)
        if bonus := self.waiting.pop(payment.user.user_id, None):
            amount = payment.cents * CENT * bonus[0] // 100
            self.grants[bonus[1]], payment.bonus = Grant(payment.user, amount), bonus[1]
        if payment.user is self.users[1] and payment.cents >= LEAST_CENTS and self.rewarded_by is None:
            self.rewarded_by = payment
            for side, caller in (("referrer", self.users[0]), ("referee", self.users[1])):
                self.grants[f"referral:{self.users[1].user_id}:{side}"] = Grant(caller, REWARDS[side])

    @rule(payment=payments, cents=st.integers(-2000, 5000))
    def refund(self, payment: Payment, cents: int) -> None:
        """Money goes back, or a refund fails and it does not."""
        if payment.paid:
            payment.refunded = max(0, min(payment.cents - payment.lost - payment.disputed, payment.refunded + cents))
            self._record(payment)

    @rule(payment=payments, cents=st.integers(100, 5000))
    def dispute(self, payment: Payment, cents: int) -> None:
        if payment.paid and not payment.disputed and payment.gone + cents <= payment.cents:
            payment.disputed = cents
            self._record(payment)

    @rule(payment=payments, is_lost=st.booleans())
    def decide(self, payment: Payment, *, is_lost: bool) -> None:
        payment.lost += payment.disputed if is_lost else 0
        payment.disputed = 0
        if payment.paid:
            self._record(payment)

    @rule(payment=payments)
    def told_old_facts(self, payment: Payment) -> None:
        """Facts that were read before another record are not recorded over it."""
        version = self.call("find_payment", id=payment.id, session_id=None, intent_id=None, invoice_id=None)["version"]
        if version > 0:
            old = {**payment.facts(), "refunded_cents": 0, "lost_cents": 0, "is_disputed": False}
            arguments = {"payment_id": payment.id, "facts": old, "event_ids": [], "actor": ACTOR}
            assert self.call("record_payment", version=version - 1, **arguments) == {"stale": True}

    def _record(self, payment: Payment, *, twice: bool = True) -> None:
        for _ in range(1 + twice):
            known = self.call("find_payment", id=payment.id, session_id=None, intent_id=None, invoice_id=None)
            told = self.call(
                "record_payment", payment_id=payment.id, version=known["version"], facts=payment.facts(), event_ids=[],
                actor=ACTOR,
            )  # fmt: skip
            assert told["status"] == "paid"
        own = self.grants[f"payment:{payment.id}"]
        own.back = share(own.amount, payment.gone, payment.cents)
        if payment.bonus:
            bonus = self.grants[payment.bonus]
            bonus.back = share(bonus.amount, payment.gone, payment.cents)
        if payment is self.rewarded_by:
            for side in REWARDS:
                reward = self.grants[f"referral:{self.users[1].user_id}:{side}"]
                reward.back = reward.amount if payment.gone else 0

    # ------------------------------------------------------------------------------------------ spent and ended

    @rule(who=st.integers(0, 1), target=holds)
    def hold(self, who: int) -> Any:
        caller = self.users[who]
        credits, held, frozen = self.purse(caller)
        request = a_request(caller)
        answer = self.unless({"insufficient_credits", "in_flight_budget"}, "authorize", **request)
        if answer is None:
            return multiple()
        assert credits - held - frozen >= answer["bound_nano"]
        return caller, request["hold_id"]

    @rule(hold=holds, cost=st.integers(0, 4 * 10**9))
    def settle(self, hold: tuple[Caller, str], cost: int) -> None:
        """Usage is a fact: it is booked whatever it costs, once."""
        caller, hold_id = hold
        told = self.call("settle", **a_settlement(caller, hold_id, cost))
        if told["state"] == "settled":
            self.spent[caller.user_id] += cost

    @rule(hold=holds)
    def release(self, hold: tuple[Caller, str]) -> None:
        self.call("release", **of(*hold))

    @rule(who=st.integers(0, 1))
    def end_a_grant(self, who: int) -> None:
        """A grant's time is over: what requests hold is left to them, all else of it ends."""
        self.loop.run(self.operator.execute(END_ONE, self.users[who].user_id))
        self.call("expire_grants", most=500)
        credits, held, frozen = self.purse(self.users[who])
        left = self.loop.run(self.operator.fetchval(LEFT, self.users[who].user_id))
        assert left == 0 or held > 0 or credits - frozen <= 0

    # ------------------------------------------------------------------------------------------ what must hold

    @invariant()
    def the_books_are_as_the_model(self) -> None:
        ids = [caller.user_id for caller in self.users]
        rows = self.loop.run(self.operator.fetch(GRANTS, ids))
        found = {row["reference"]: row for row in rows}
        assert {name: (each.user.user_id, each.amount) for name, each in self.grants.items()} == {
            name: (row["user_id"], row["amount_nano"]) for name, row in found.items()
        }
        for name, each in self.grants.items():
            assert found[name]["clawed_nano"] == min(each.back, each.amount - found[name]["expired_nano"])
        for caller in self.users:
            credits, _, _ = self.purse(caller)
            own = [row for row in rows if row["user_id"] == caller.user_id]
            kept = sum(row["amount_nano"] - row["clawed_nano"] - row["expired_nano"] for row in own)
            assert credits == kept - self.spent[caller.user_id]
        assert self.loop.run(self.operator.fetchval("select count(*) from gateway.ledger_violations")) == 0

    @invariant()
    def a_payment_gives_no_more_than_it_brought(self) -> None:
        for payment in self.made:
            assert payment.refunded + payment.lost + payment.disputed <= payment.cents


@pytest.mark.slow("200 runs of 50 steps, each a database call: fewer would not meet rare orders")
def test_the_books_are_as_their_model(database: Database) -> None:
    with asyncio.Runner() as loop:
        operator = loop.run(asyncpg.connect(database.admin))
        transport = loop.run(_prepare(operator, database))
        machine = type("FreshBooks", (Books,), {"loop": loop, "operator": operator, "transport": transport})
        try:
            run_state_machine_as_test(machine, settings=EXAMPLES)
        finally:
            loop.run(transport.close())
            loop.run(operator.close())


async def _prepare(operator: Connection, database: Database) -> Postgres:
    await operator.execute(UNLIMITED)
    await operator.execute(TERMS, REWARDS["referrer"], REWARDS["referee"])
    await a_model(operator, "acme/one")
    return Postgres(database.service)
