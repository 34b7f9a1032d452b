"""Credits: held, then settled, released or expired, once; and never more than there are."""

from __future__ import annotations

import asyncio
import secrets
from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from gateway import errors
from gateway.database import Failure, call
from tests.harness.builders import (
    BOUND,
    a_caller,
    a_key,
    a_model,
    a_request,
    a_settlement,
    crowd,
    dump,
    insert,
    of,
    purse,
    refusal,
)

if TYPE_CHECKING:
    from tests.harness.builders import Call, Caller, Connection
    from tests.harness.postgres import Database

pytestmark = pytest.mark.usefixtures("service")

GRANT = "select api.grant($1, gen_random_uuid()::text, $2, 'test', '{\"name\": \"test\"}')"
OVER = "update gateway.credit_holds set expires_at = now() where id = '{}' and state = 'held'"
NO_VIOLATION = "select count(*) = 0 from gateway.ledger_violations"


async def hold(caller: Caller, **changes: Any) -> str:
    hold_id: str = (await call("authorize", **a_request(caller, **changes)))["hold_id"]
    return hold_id


async def sweep(operator: Connection, *holds: str) -> int:
    """Lets the time of these holds be over, and runs the sweep."""
    await operator.execute("update gateway.credit_holds set expires_at = now() where id = any ($1)", holds)
    expired: int = (await call("expire_holds"))["expired"]
    return expired


async def state(operator: Connection, hold_id: str) -> tuple[str, int | None]:
    row = await operator.fetchrow("select state, cost_nano from gateway.credit_holds where id = $1", hold_id)
    assert row is not None
    return row[0], row[1]


# ------------------------------------------------------------------------------------------------------------ authorize


async def test_a_request_holds_the_most_it_can_cost(operator: Connection) -> None:
    caller = await a_caller(operator)
    held = await call("authorize", **a_request(caller))
    figures = ("user_id", "key_id", "credits_nano", "bound_nano", "max_tokens")
    assert [held[name] for name in figures] == [caller.user_id, caller.key_id, 100 * BOUND, BOUND, None]
    assert await purse(operator, caller.user_id) == (100 * BOUND, BOUND)
    many = await call("authorize", **a_request(caller, choices=3, prompt_tokens=7))
    assert many["bound_nano"] == 7 * 1000 + 3 * 10 * 2000
    unlimited = await call("authorize", **a_request(caller, max_tokens=None))
    assert unlimited["bound_nano"] == 10 * 1000 + 1000 * 2000  # the model's own limit


async def test_a_hold_covers_the_dearest_offer_and_rounds_up(operator: Connection) -> None:
    await a_model(operator, "acme/odd", "chutes", prompt_price=1, completion_price=1)
    await insert(
        operator, "offers", model_id="acme/odd", provider="openrouter", upstream_id="x", priority=1,
        prompt_price=1, completion_price=2, request_price=5, cache_write_price=900_000,
    )  # fmt: skip
    caller = await a_caller(operator)
    held = await call("authorize", **a_request(caller, models=["acme/odd"]))
    assert [offer["provider"] for offer in held["offers"]] == ["chutes", "openrouter"]
    assert held["bound_nano"] == 10  # 10 * 900 000 + 5 + 10 * 2 millionths of a nano-dollar, rounded up


async def test_completion_tokens_are_cut_to_what_the_balance_allows(operator: Connection) -> None:
    caller = await a_caller(operator, credit_nano=BOUND + 99 * 2000 + 1999)
    held = await call("authorize", **a_request(caller, max_tokens=500))
    assert (held["max_tokens"], held["bound_nano"]) == (109, BOUND + 99 * 2000)
    assert (await refusal(operator, **a_request(caller))).code == "in_flight_budget"


async def test_where_not_all_fits_the_offer_that_allows_most_serves(operator: Connection) -> None:
    await a_model(operator, "acme/two", "chutes")
    await insert(
        operator, "offers", model_id="acme/two", provider="openrouter", upstream_id="x", priority=1,
        prompt_price=1_000_000_000, completion_price=1_000_000_000,
    )  # fmt: skip
    caller = await a_caller(operator, credit_nano=BOUND + 100_000)
    short = await call("authorize", **a_request(caller, models=["acme/two"], max_tokens=500))
    assert [offer["provider"] for offer in short["offers"]] == ["openrouter"]
    assert (short["max_tokens"], short["bound_nano"]) == (120, BOUND + 100_000)
    await call("release", **of(caller, short["hold_id"]))
    whole = await call("authorize", **a_request(caller, models=["acme/two"], max_tokens=100))
    assert [offer["provider"] for offer in whole["offers"]] == ["openrouter"]
    assert whole["max_tokens"] is None


async def test_fewer_than_sixteen_tokens_are_not_worth_it(operator: Connection) -> None:
    caller = await a_caller(operator, credit_nano=10_000 + 16 * 2000 - 1)
    error = await refusal(operator, **a_request(caller, max_tokens=500))
    assert (error.status, error.code) == (402, "insufficient_credits")
    assert error.metadata == {"limit_source": "balance"}
    assert (await call("authorize", **a_request(caller, max_tokens=15)))["max_tokens"] is None


async def test_what_is_short_is_said(operator: Connection) -> None:
    caller = await a_caller(operator, credit_nano=BOUND)
    assert type(await refusal(operator, **a_request(caller, max_tokens=11))) is errors.InsufficientCredits
    await hold(caller)
    error = await refusal(operator, **a_request(caller))
    assert (error.status, error.code, error.retry_after_ms) == (402, "in_flight_budget", 1000)
    assert error.metadata == {"limit_source": "in_flight"}
    assert type(await refusal(operator, **a_request(caller, prompt_tokens=99))) is errors.InsufficientCredits


async def test_a_request_that_can_cost_more_than_its_own_ceiling_is_refused(operator: Connection) -> None:
    caller = await a_caller(operator)
    error = await refusal(operator, **a_request(caller, max_cost_nano=BOUND - 1))
    assert (error.status, error.code, error.param) == (400, "invalid_request_error", "X-Max-Cost-Usd")
    assert await hold(caller, max_cost_nano=BOUND)
    cut = await call("authorize", **a_request(caller, max_tokens=500, max_cost_nano=50_000))
    assert (cut["max_tokens"], cut["bound_nano"]) == (20, 50_000)


async def test_sent_again_it_holds_once_and_answers_the_same(operator: Connection) -> None:
    caller = await a_caller(operator, credit_nano=BOUND + 50_000, limit_nano=BOUND + 60_000)
    request = a_request(caller, max_tokens=500)
    first = await call("authorize", **request)
    assert first["max_tokens"] == 35
    assert await call("authorize", **request) == first
    assert await purse(operator, caller.user_id) == (BOUND + 50_000, BOUND + 50_000)
    await call("release", **of(caller, request["hold_id"]))
    error = await refusal(operator, **request)
    assert (error.status, error.code) == (409, "conflict")


# ------------------------------------------------------------------------------------------- settle, release and expire


MOVES = {
    ("held", "settle"): "settled",
    ("held", "release"): "released",
    ("held", "expire"): "expired",
    ("released", "settle"): "settled",
    ("released", "release"): "released",
    ("released", "expire"): "released",
    ("expired", "settle"): "settled",
    ("expired", "release"): "expired",
    ("expired", "expire"): "expired",
    ("settled", "settle"): "settled",
    ("settled", "release"): "settled",
    ("settled", "expire"): "settled",
}
ENDS = {"settled": "settle", "released": "release", "expired": "expire"}


async def move(operator: Connection, caller: Caller, hold_id: str, action: str, cost: int) -> None:
    if action == "settle":
        await call("settle", **a_settlement(caller, hold_id, cost))
    elif action == "release":
        await call("release", **of(caller, hold_id))
    else:
        await sweep(operator, hold_id)


@pytest.mark.parametrize(("start", "action"), MOVES)
async def test_a_hold_moves_only_as_it_may(operator: Connection, start: str, action: str) -> None:
    caller = await a_caller(operator)
    hold_id = await hold(caller)
    if start != "held":
        await move(operator, caller, hold_id, ENDS[start], cost=11)
    before = await dump(operator)
    await move(operator, caller, hold_id, action, cost=22)
    ended = MOVES[start, action]
    cost = {"settled": 11 if start == "settled" else 22}.get(ended)
    assert await state(operator, hold_id) == (ended, cost)
    assert await purse(operator, caller.user_id) == (100 * BOUND - (cost or 0), 0)
    if ended == start and action != "expire":
        assert await dump(operator) == before


async def test_a_settlement_is_booked_whole(operator: Connection) -> None:
    caller = await a_caller(operator)
    hold_id = await hold(caller)
    usage = {"cached_tokens": 3, "reasoning_tokens": 4, "upstream_cost_nano": 9, "finish_reason": "stop"}
    answer = await call("settle", **a_settlement(caller, hold_id, 25_000, **usage, first_byte_ms=2))
    assert answer == {"state": "settled", "credits_nano": 100 * BOUND - 25_000}
    entry = await operator.fetchrow("select * from gateway.credit_transactions where kind = 'usage'")
    assert entry is not None
    assert (entry["user_id"], entry["reference"], entry["amount_nano"]) == (caller.user_id, hold_id, -25_000)
    record = await operator.fetchrow("select * from gateway.usage_records")
    assert record is not None
    expected = a_settlement(caller, hold_id, 25_000, **usage, first_byte_ms=2)["usage"] | {
        "user_id": caller.user_id,
        "key_id": caller.key_id,
    }
    assert {name: record[name] for name in expected} == expected
    assert str(record["id"]) == hold_id
    again = await call("settle", **a_settlement(caller, hold_id, 1))
    assert again == {"state": "repeated", "credits_nano": 100 * BOUND - 25_000}


async def test_a_keys_day_adds_up(operator: Connection) -> None:
    caller = await a_caller(operator)
    other = await a_key(operator, caller.user_id)
    for key, cost in ((caller, 5), (caller, 7), (other, 11)):
        await call("settle", **a_settlement(key, await hold(key), cost, prompt_tokens=2, completion_tokens=3))
    rows = await operator.fetch(
        "select key_id, requests, prompt_tokens, completion_tokens, cost_nano from gateway.key_usage"
        " where day = (now() at time zone 'utc')::date order by key_id"
    )
    assert [tuple(row) for row in rows] == [(caller.key_id, 2, 4, 6, 12), (other.key_id, 1, 2, 3, 11)]


async def test_usage_is_booked_above_the_bound_and_below_zero_then_nothing_is_admitted(
    operator: Connection,
) -> None:
    caller = await a_caller(operator, credit_nano=BOUND)
    await a_model(operator, "acme/free", prompt_price=0, completion_price=0, is_free=True)
    await call("settle", **a_settlement(caller, await hold(caller), 3 * BOUND))
    assert await purse(operator, caller.user_id) == (-2 * BOUND, 0)
    for models in (["acme/one"], ["acme/free"]):
        error = await refusal(operator, **a_request(caller, models=models))
        assert (error.status, error.code) == (402, "insufficient_credits")
    await operator.execute(GRANT, caller.user_id, 3 * BOUND)
    assert await hold(caller)


async def test_a_lost_hold_is_charged_all_the_same_once(operator: Connection) -> None:
    caller = await a_caller(operator)
    lost = str(uuid4())
    for expected in ("settled", "repeated"):
        answer = await call("settle", **a_settlement(caller, lost))
        assert answer == {"state": expected, "credits_nano": 99 * BOUND}
    assert await state(operator, lost) == ("settled", BOUND)


async def test_a_request_that_cost_nothing_leaves_no_entry(operator: Connection) -> None:
    caller = await a_caller(operator)
    hold_id = await hold(caller)
    assert (await call("settle", **a_settlement(caller, hold_id, 0)))["state"] == "settled"
    assert await state(operator, hold_id) == ("settled", 0)
    assert not await operator.fetch("select from gateway.credit_transactions where kind = 'usage'")


@pytest.mark.parametrize("cost", [None, -1, "1.5", 2**63])
async def test_a_settlement_without_a_sound_cost_is_refused(operator: Connection, cost: Any) -> None:
    caller = await a_caller(operator)
    hold_id = await hold(caller)
    error = await refusal(operator, "settle", **a_settlement(caller, hold_id, cost))
    assert type(error) is errors.InternalError


async def test_a_settlement_may_not_name_its_own_id_user_or_day(operator: Connection) -> None:
    caller, other = await a_caller(operator), await a_caller(operator)
    stolen: dict[str, Any] = {
        "id": str(uuid4()),
        "user_id": other.user_id,
        "key_id": other.key_id,
        "created_at": "2001-01-01",
    }
    hold_id = await hold(caller)
    await call("settle", **a_settlement(caller, hold_id, **stolen))
    record = await operator.fetchrow("select id, user_id, key_id, created_at from gateway.usage_records")
    assert record is not None
    assert (str(record[0]), record[1], record[2]) == (hold_id, caller.user_id, caller.key_id)
    assert record[3].year > 2001


@pytest.mark.parametrize("has_month", [True, False])
async def test_usage_is_in_its_months_partition_or_else_the_default(operator: Connection, *, has_month: bool) -> None:
    caller = await a_caller(operator)
    month = await operator.fetchval("select 'gateway.usage_records_' || to_char(now(), 'YYYY_MM')")
    if not has_month:
        await operator.execute(f"alter table gateway.usage_records detach partition {month}")
    await call("settle", **a_settlement(caller, await hold(caller)))
    place = await operator.fetchval("select tableoid::regclass::text from gateway.usage_records")
    assert place == (month if has_month else "gateway.usage_records_default")


async def test_the_sweep_ends_only_what_is_over(operator: Connection) -> None:
    callers = [await a_caller(operator) for _ in range(2)]
    over = [await hold(caller) for caller in callers for _ in range(2)]
    young = await hold(callers[0])
    assert await sweep(operator, *over) == 4
    assert await sweep(operator) == 0
    assert [(await state(operator, each))[0] for each in (*over, young)] == ["expired"] * 4 + ["held"]
    assert [(await purse(operator, caller.user_id))[1] for caller in callers] == [BOUND, 0]
    lasts = "select extract(epoch from expires_at - created_at) / 60 from gateway.credit_holds where id = $1"
    assert round(await operator.fetchval(lasts, young)) == 26


# --------------------------------------------------------------------------------------------------------------- crowds


async def test_of_64_at_once_ten_credits_serve_ten(operator: Connection, database: Database) -> None:
    caller = await a_caller(operator, credit_nano=10 * BOUND)
    async with crowd(database.service) as send:
        tries = [send("authorize", **a_request(caller)) for _ in range(64)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        held = [outcome["hold_id"] for outcome in outcomes if isinstance(outcome, dict)]
        refused = Counter(outcome.message for outcome in outcomes if isinstance(outcome, Failure))
        assert (len(held), refused) == (10, {"in_flight_budget": 54})
        assert await purse(operator, caller.user_id) == (10 * BOUND, 10 * BOUND)
        booked = await asyncio.gather(
            *(send("settle", **a_settlement(caller, each)) for each in held for _ in range(6))
        )
    assert Counter(each["state"] for each in booked) == {"settled": 10, "repeated": 50}
    assert await purse(operator, caller.user_id) == (0, 0)


async def test_of_two_that_race_for_the_last_credit_one_wins(operator: Connection, database: Database) -> None:
    caller = await a_caller(operator, credit_nano=BOUND)
    async with crowd(database.service, 20) as send:
        for _ in range(25):
            tries = [send("authorize", **a_request(caller)) for _ in range(2)]
            one, other = await asyncio.gather(*tries, return_exceptions=True)
            winner, loser = (one, other) if isinstance(one, dict) else (other, one)
            assert isinstance(winner, dict)
            assert isinstance(loser, Failure)
            assert (loser.code, loser.message) == ("PT402", "in_flight_budget")
            await send("release", **of(caller, winner["hold_id"]))


async def test_sweeps_at_once_share_the_work(operator: Connection, database: Database) -> None:
    callers = [await a_caller(operator) for _ in range(30)]
    over = [await hold(caller) for caller in callers]
    await operator.execute("update gateway.credit_holds set expires_at = now() where id = any ($1)", over)
    async with crowd(database.service, 10) as send:
        swept = await asyncio.gather(*(send("expire_holds") for _ in range(10)))
    assert sum(each["expired"] for each in swept) == 30


async def test_a_storm_keeps_the_ledger_whole_and_locks_nobody_out(operator: Connection, database: Database) -> None:
    callers = [await a_caller(operator, credit_nano=10 * BOUND) for _ in range(3)]
    for caller in callers[:2]:
        await insert(operator, "rate_limit_configs", user_id=caller.user_id, tokens_per_minute=10**9)
    async with crowd(database.service, 32) as send:
        workers = asyncio.gather(*(_work(send, database, callers) for _ in range(32)))
        snapshots = 0
        while not workers.done():
            assert await operator.fetchval(NO_VIOLATION)
            snapshots += 1
        outcomes = sum(await workers, Counter())
        assert snapshots > 10
        assert set(outcomes) == {"done", "PT402"}, outcomes
        await operator.execute("update gateway.credit_holds set expires_at = now()")
        await send("expire_holds")
    assert [(await purse(operator, caller.user_id))[1] for caller in callers] == [0, 0, 0]


async def _work(send: Call, database: Database, callers: list[Caller]) -> Counter[str]:
    """Forty random calls, the settling of open holds and of holds that ended or were never there among them."""
    outcomes: Counter[str] = Counter()
    known: list[tuple[Caller, str]] = []
    for _ in range(40):
        caller = secrets.choice(callers)
        owner, hold_id = secrets.choice([*known[-4:], (caller, str(uuid4()))])
        settlement = a_settlement(owner, hold_id, secrets.randbelow(2 * BOUND), answer=secrets.choice([None, "a"]))
        request = a_request(caller, idempotency_key=secrets.choice([None, str(uuid4())]), fingerprint="f")
        action = secrets.choice(["authorize"] * 4 + ["settle"] * 3 + ["release", "expire_holds", "grant"])
        arguments: dict[str, dict[str, Any]] = {
            "authorize": request,
            "settle": settlement,
            "release": of(owner, hold_id),
            "expire_holds": {},
            "grant": {
                "user_id": caller.user_id, "reference": str(secrets.randbelow(200)), "amount_nano": BOUND,
                "reason": "", "actor": {"name": "test"},
            },
        }  # fmt: skip
        if action == "expire_holds":
            await database.execute(OVER.format(hold_id))
        try:
            await send(action, **arguments[action])
        except Failure as failure:
            outcomes[failure.code] += 1
            continue
        outcomes["done"] += 1
        if action == "authorize":
            known.append((caller, request["hold_id"]))
    return outcomes
