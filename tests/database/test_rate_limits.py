"""Requests, tokens and requests at once: exact under concurrency, and each 429 says truly when to come again."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from gateway import errors
from gateway.database import Failure, call
from tests.harness.builders import a_caller, a_key, a_request, a_settlement, crowd, insert, of, refusal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gateway.database.postgres import Postgres
    from tests.harness.builders import Caller, Connection
    from tests.harness.postgres import Database

WAITING = """
select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'
"""
REFILL = 100
"""Tokens of 1000 a minute that may come back while a test runs: six seconds' worth."""

pytestmark = pytest.mark.usefixtures("service")


async def limit(operator: Connection, caller: Caller, scope: str = "user", **limits: int) -> None:
    """Gives a user, or one key of its, limits of its own."""
    key_id = caller.key_id if scope == "key" else None
    await insert(operator, "rate_limit_configs", user_id=caller.user_id, key_id=key_id, **limits)


async def hold(caller: Caller, **changes: Any) -> dict[str, Any]:
    admitted: dict[str, Any] = await call("authorize", **a_request(caller, **changes))
    return admitted


async def waits(operator: Connection, milliseconds: int) -> None:
    """Lets so much time go by for every bucket."""
    await operator.execute(
        "update gateway.rate_limit_buckets"
        " set requests_tat = requests_tat - $1::interval, tokens_tat = tokens_tat - $1::interval",
        timedelta(milliseconds=milliseconds),
    )


async def remaining(caller: Caller, kind: str = "tokens") -> int:
    """What a request for nothing is told is left."""
    level: int = (await hold(caller, expected_tokens=0))["limits"][kind]["remaining"]
    return level


@pytest.mark.parametrize("scope", ["user", "key"])
@pytest.mark.parametrize("kind", ["requests", "tokens"])
async def test_a_full_bucket_says_when_it_has_room(operator: Connection, scope: str, kind: str) -> None:
    caller = await a_caller(operator)
    limits = {"requests_per_minute": 2} if kind == "requests" else {"tokens_per_minute": 40}
    await limit(operator, caller, scope, **limits)
    await hold(caller)
    await hold(caller)
    error = await refusal(operator, **a_request(caller))
    assert (error.status, error.code) == (429, "rate_limit_exceeded")
    assert error.metadata == {"scope": scope, "limit": kind}
    assert error.retry_after_ms is not None
    assert 20_000 < error.retry_after_ms <= 30_000
    await waits(operator, error.retry_after_ms - 10_000)
    later = await refusal(operator, **a_request(caller))
    assert later.retry_after_ms is not None
    assert later.retry_after_ms <= 10_000
    await waits(operator, later.retry_after_ms)
    await hold(caller)
    assert (await refusal(operator, **a_request(caller))).status == 429


@pytest.mark.parametrize("requests", [1, 7, 13])
async def test_an_empty_bucket_takes_its_whole_limit_at_once(operator: Connection, requests: int) -> None:
    caller = await a_caller(operator)
    await limit(operator, caller, requests_per_minute=requests)
    left = [(await hold(caller))["limits"]["requests"]["remaining"] for _ in range(requests)]
    assert left == list(range(requests - 1, -1, -1))
    assert type(await _refused(caller)) is errors.RateLimitExceeded


async def _refused(caller: Caller) -> errors.GatewayError:
    with pytest.raises(errors.GatewayError) as caught:
        await hold(caller)
    return caught.value


async def test_the_slower_of_two_full_buckets_is_waited_for(operator: Connection) -> None:
    caller = await a_caller(operator)
    await limit(operator, caller, requests_per_minute=1, tokens_per_minute=20)
    await hold(caller)
    await operator.execute("update gateway.rate_limit_buckets set tokens_tat = tokens_tat + interval '1 minute'")
    error = await refusal(operator, **a_request(caller))
    assert error.metadata["limit"] == "tokens"
    assert error.retry_after_ms is not None
    await waits(operator, error.retry_after_ms)
    await hold(caller)


async def test_more_keys_do_not_raise_a_users_limit(operator: Connection) -> None:
    caller = await a_caller(operator)
    await limit(operator, caller, requests_per_minute=2)
    for key in [await a_key(operator, caller.user_id) for _ in range(2)]:
        await hold(key)
    error = await refusal(operator, **a_request(await a_key(operator, caller.user_id)))
    assert (error.status, error.metadata["scope"]) == (429, "user")


async def test_a_keys_limit_binds_that_key_alone(operator: Connection) -> None:
    caller = await a_caller(operator)
    await limit(operator, caller, "key", requests_per_minute=1)
    await hold(caller)
    assert (await refusal(operator, **a_request(caller))).metadata["scope"] == "key"
    await hold(await a_key(operator, caller.user_id))


async def test_the_tighter_limit_is_shown(operator: Connection) -> None:
    caller = await a_caller(operator)
    await limit(operator, caller, requests_per_minute=60, tokens_per_minute=600)
    assert (await hold(caller))["limits"] == {
        "requests": {"limit": 60, "remaining": 59, "reset_ms": 1000},
        "tokens": {"limit": 600, "remaining": 580, "reset_ms": 2000},
    }
    await limit(operator, caller, "key", requests_per_minute=6)
    assert (await hold(caller))["limits"] == {
        "requests": {"limit": 6, "remaining": 5, "reset_ms": 10_000},
        "tokens": None,
    }


async def test_plans_set_limits_until_they_end_and_a_users_own_come_first(operator: Connection) -> None:
    caller = await a_caller(operator)
    assert (await hold(caller))["limits"] == {"requests": None, "tokens": None}
    await operator.execute("update gateway.plans set requests_per_minute = 10")
    paid = await insert(operator, "plans", name="paid", requests_per_minute=20, tokens_per_minute=5000)
    await insert(operator, "user_plans", user_id=caller.user_id, plan_id=paid["id"])
    assert await _limit(caller) == 20
    await operator.execute("update gateway.user_plans set ends_at = now()")
    assert await _limit(caller) == 10
    await operator.execute("update gateway.user_plans set ends_at = now() + interval '1 hour'")
    await limit(operator, caller, requests_per_minute=30)
    limits = (await hold(caller))["limits"]
    assert (limits["requests"]["limit"], limits["tokens"]["limit"]) == (30, 5000)


async def _limit(caller: Caller) -> int:
    per_minute: int = (await hold(caller))["limits"]["requests"]["limit"]
    return per_minute


async def test_nothing_is_served_when_no_plan_gives_limits(operator: Connection) -> None:
    caller = await a_caller(operator)
    await operator.execute("update gateway.plans set is_default = false")
    assert type(await refusal(operator, **a_request(caller))) is errors.InternalError


async def test_a_request_above_the_limit_is_admitted_to_an_empty_bucket_only(operator: Connection) -> None:
    caller = await a_caller(operator)
    await limit(operator, caller, tokens_per_minute=1000)
    await hold(caller, expected_tokens=50_000)
    error = await refusal(operator, **a_request(caller, expected_tokens=50_000))
    assert error.retry_after_ms is not None
    assert 50_000 < error.retry_after_ms <= 60_000


@pytest.mark.parametrize(("used", "left"), [(300, 700), (100, 900), (0, 1000), (1500, 0)])
async def test_settling_corrects_the_tokens_both_ways(operator: Connection, used: int, left: int) -> None:
    caller = await a_caller(operator)
    for scope in ("user", "key"):
        await limit(operator, caller, scope, tokens_per_minute=1000)
    admitted = await hold(caller, expected_tokens=200)
    assert admitted["limits"]["tokens"]["remaining"] == 800
    settlement = a_settlement(caller, admitted["hold_id"], prompt_tokens=used, completion_tokens=0)
    await call("settle", **settlement)
    levels = await _levels(operator, caller)
    assert all(left <= level < left + REFILL for level in levels), levels
    await call("settle", **settlement)
    assert all(level < left + REFILL for level in await _levels(operator, caller))


async def _levels(operator: Connection, caller: Caller) -> list[float]:
    """What is left of 1000 tokens a minute, for the key and for the user; refilled a little since."""
    return [
        row[0]
        for row in await operator.fetch(
            "select 1000 * (1 - greatest(0, least(60, extract(epoch from tokens_tat - clock_timestamp()))) / 60)"
            "::float from gateway.rate_limit_buckets where id in ($1, $2) order by scope",
            caller.user_id,
            caller.key_id,
        )
    ]


async def test_releasing_gives_the_tokens_back_once(operator: Connection) -> None:
    caller = await a_caller(operator)
    await limit(operator, caller, tokens_per_minute=1000)
    kept, gone = [(await hold(caller, expected_tokens=400))["hold_id"] for _ in range(2)]
    for _ in range(2):
        await call("release", **of(caller, gone))
    assert 600 <= await remaining(caller) < 600 + REFILL
    late = a_settlement(caller, gone, prompt_tokens=400, completion_tokens=0)
    await call("settle", **late)  # it had cost something after all
    assert 200 <= await remaining(caller) < 200 + REFILL
    await call("release", **of(caller, kept))
    assert 600 <= await remaining(caller) < 600 + REFILL


async def test_a_correction_gives_back_no_more_than_was_taken(operator: Connection) -> None:
    caller = await a_caller(operator)
    await limit(operator, caller, tokens_per_minute=1000)
    large = (await hold(caller, expected_tokens=1_000_000))["hold_id"]
    await waits(operator, 60_000)
    await hold(caller, expected_tokens=900)
    await waits(operator, 30_000)
    await hold(caller, expected_tokens=500)
    await call("release", **of(caller, large))  # a minute of tokens, not a thousand minutes
    bucket = await operator.fetchval(
        "select extract(epoch from tokens_tat - clock_timestamp()) from gateway.rate_limit_buckets"
    )
    assert -30 < bucket < 0


async def test_a_correction_is_not_lost_to_a_request_that_comes_meanwhile(
    operator: Connection, database: Database
) -> None:
    caller = await a_caller(operator)
    await limit(operator, caller, tokens_per_minute=1000)
    admitted = await hold(caller, expected_tokens=0)
    settlement = a_settlement(caller, admitted["hold_id"], prompt_tokens=500, completion_tokens=0)
    async with locked_user(database, operator, caller) as waiting:
        booking = asyncio.create_task(call("settle", **settlement))
        await waiting(1)
        admission = asyncio.create_task(hold(caller, expected_tokens=0))
        await waiting(2)
    assert (await booking)["state"] == "settled"
    level = (await admission)["limits"]["tokens"]["remaining"]
    assert 500 <= level < 500 + REFILL


async def test_a_settlement_that_finds_no_bucket_waits_for_none(
    operator: Connection, database: Database, service: Postgres
) -> None:
    """As after a crash, which empties the buckets; to wait for one that came later was a deadlock."""
    caller = await a_caller(operator)
    await limit(operator, caller, tokens_per_minute=1000)
    settlement = a_settlement(caller, (await hold(caller))["hold_id"])
    await operator.execute("truncate gateway.rate_limit_buckets")
    async with locked_user(database, operator, caller) as waiting:
        booking = asyncio.create_task(service.call("settle", settlement))
        await waiting(1)
        await insert(
            operator, "rate_limit_buckets", scope="user", id=caller.user_id,
            requests_tat=datetime.now(UTC), tokens_tat=datetime.now(UTC),
        )  # fmt: skip
        admission = asyncio.create_task(service.call("authorize", a_request(caller)))
        await waiting(2)
    assert (await booking)["state"] == "settled"
    assert await admission


@asynccontextmanager
async def locked_user(
    database: Database, operator: Connection, caller: Caller
) -> AsyncIterator[Callable[[int], Awaitable[None]]]:
    """Holds a user's row; gives a wait until so many calls wait for a lock."""
    connection = await asyncpg.connect(database.admin)

    async def waiting(calls: int) -> None:
        async with asyncio.timeout(10):
            while calls != await operator.fetchval(WAITING):  # noqa: ASYNC110 - the database has no events
                await asyncio.sleep(0.005)

    try:
        async with connection.transaction():
            await connection.execute("select from gateway.users where id = $1 for update", caller.user_id)
            yield waiting
    finally:
        await connection.close()


@pytest.mark.parametrize("scope", ["user", "key"])
async def test_requests_at_once_are_leases(operator: Connection, scope: str) -> None:
    caller = await a_caller(operator)
    await limit(operator, caller, scope, concurrency=2)
    first, second = [(await hold(caller))["hold_id"] for _ in range(2)]
    error = await refusal(operator, **a_request(caller))
    assert (error.status, error.code) == (429, "concurrency_limit_exceeded")
    assert (error.retry_after_ms, error.metadata) == (1000, {"scope": scope})
    await call("settle", **a_settlement(caller, first))
    third = (await hold(caller))["hold_id"]
    await call("release", **of(caller, second))
    await hold(caller)
    assert (await _refused(caller)).code == "concurrency_limit_exceeded"
    await operator.execute("update gateway.credit_holds set expires_at = $1 where id = $2", datetime.now(UTC), third)
    await hold(caller)  # a lease ends by itself, before the sweep


async def test_another_keys_requests_count_for_the_user_only(operator: Connection) -> None:
    caller = await a_caller(operator)
    other = await a_key(operator, caller.user_id)
    await limit(operator, caller, "key", concurrency=1)
    await hold(other)
    await hold(caller)
    await limit(operator, caller, concurrency=2)
    assert (await refusal(operator, **a_request(other))).metadata["scope"] == "user"


async def test_a_request_sent_again_is_not_in_its_own_way(operator: Connection) -> None:
    caller = await a_caller(operator)
    await limit(operator, caller, concurrency=1)
    request = a_request(caller)
    answer = await call("authorize", **request)
    assert await call("authorize", **request) == answer
    assert await operator.fetchval("select count(*) from gateway.credit_holds") == 1


@pytest.mark.parametrize("limits", [{"requests_per_minute": 10}, {"tokens_per_minute": 200}, {"concurrency": 10}])
async def test_a_crowd_gets_exactly_the_limit(operator: Connection, database: Database, limits: dict[str, Any]) -> None:
    caller = await a_caller(operator)
    keys = [caller, *[await a_key(operator, caller.user_id) for _ in range(3)]]
    await limit(operator, caller, **limits)
    async with crowd(database.service) as send:
        tries = [send("authorize", **a_request(keys[number % 4])) for number in range(64)]
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
    assert Counter(_code(outcome) for outcome in outcomes) == {"admitted": 10, "PT429": 54}


def _code(outcome: Any) -> str:
    return outcome.code if isinstance(outcome, Failure) else "admitted"
