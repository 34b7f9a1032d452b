"""Circuit breakers: an offer that keeps failing comes last, for longer each time, and first again once it answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.database import call
from tests.harness.builders import a_caller, a_model, a_request, a_settlement, an_offer, crowd, insert, of

if TYPE_CHECKING:
    from tests.harness.builders import Caller, Connection
    from tests.harness.postgres import Database

pytestmark = pytest.mark.usefixtures("service")
MODEL = "acme/two"


@pytest.fixture
async def caller(operator: Connection) -> Caller:
    await a_model(operator, MODEL, "openrouter", priority=0)
    await an_offer(operator, MODEL, "chutes", priority=1)
    return await a_caller(operator, credit_nano=10**9)


def failed(*providers: str, **members: Any) -> list[dict[str, Any]]:
    return [{"model": MODEL, "provider": name, "error": "provider_error", **members} for name in providers]


async def serve(caller: Caller, *failing: str, by: str = "chutes", **members: Any) -> list[str]:
    """A request that these providers failed and another answered; the order in which they were offered."""
    hold = await call("authorize", **a_request(caller, models=[MODEL]))
    used = {"model": MODEL, "provider": by, "attempts": failed(*failing, **members) or None}
    await call("settle", **a_settlement(caller, hold["hold_id"], 1, **used))
    return [offer["provider"] for offer in hold["offers"]]


async def open_for(operator: Connection) -> float | None:
    found = await operator.fetchval(
        "select extract(epoch from open_until - now()) from gateway.offer_health where provider = 'openrouter'"
    )
    return None if found is None else float(found)


async def test_five_failures_open_the_circuit_and_an_answer_closes_it(operator: Connection, caller: Caller):
    for _ in range(5):
        assert await serve(caller, "openrouter") == ["openrouter", "chutes"]
    assert await serve(caller) == ["chutes", "openrouter"]
    await operator.execute("update gateway.offer_health set open_until = now()")
    assert await serve(caller, by="openrouter") == ["openrouter", "chutes"]
    assert await operator.fetchval("select failures from gateway.offer_health where provider = 'openrouter'") == 0
    assert await open_for(operator) is None


async def test_each_further_failure_doubles_the_pause_up_to_eight_minutes(operator: Connection, caller: Caller):
    pauses = []
    for _ in range(12):
        await serve(caller, "openrouter")
        pauses.append(await open_for(operator))
    assert pauses[:4] == [None] * 4
    assert [round(pause) for pause in pauses[4:] if pause] == [30, 60, 120, 240, 480, 480, 480, 480]


async def test_an_answer_between_failures_starts_again(caller: Caller):
    for _ in range(4):
        await serve(caller, "openrouter")
    await serve(caller, by="openrouter")
    for _ in range(4):
        await serve(caller, "openrouter")
    assert await serve(caller) == ["openrouter", "chutes"]


async def test_failures_with_a_users_own_key_are_not_the_offers(operator: Connection, caller: Caller):
    for _ in range(6):
        await serve(caller, "openrouter", is_byok=True)
    assert await operator.fetchval("select count(*) from gateway.offer_health where failures > 0") == 0


async def test_a_request_that_everybody_failed_counts_too(operator: Connection, caller: Caller):
    for _ in range(5):
        hold = await call("authorize", **a_request(caller, models=[MODEL]))
        usage = a_settlement(caller, hold["hold_id"])["usage"] | {"attempts": failed("openrouter", "chutes")}
        del usage["cost_nano"], usage["outcome"]
        await call("release", **of(caller, hold["hold_id"]), usage={**usage, "error": "provider_error"})
    assert await operator.fetchval("select count(*) from gateway.offer_health where open_until > now()") == 2
    assert await serve(caller) == ["openrouter", "chutes"]


async def test_noting_failures_of_many_at_once_holds_nobody_up(
    operator: Connection, caller: Caller, database: Database
):
    await operator.execute("update gateway.plans set concurrency = null, requests_per_minute = null")
    holds = [await call("authorize", **a_request(caller, models=[MODEL])) for _ in range(40)]
    async with crowd(database.service) as at_once:
        await asyncio.gather(*(
            at_once("settle", **a_settlement(
                caller, hold["hold_id"], 1, model=MODEL, provider=("openrouter", "chutes")[number % 2],
                attempts=failed(("chutes", "openrouter")[number % 2])))
            for number, hold in enumerate(holds)
        ))  # fmt: skip
    assert await operator.fetchval("select count(*) from gateway.offer_health") == 2


async def test_measured_latency_and_errors_choose(operator: Connection, caller: Caller):
    hour = await operator.fetchval("select date_trunc('hour', now())")
    columns = {"hour": hour, "model": MODEL, "requests": 10, "errors": 0, "byok_requests": 0, "prompt_tokens": 1}
    for provider, slot in (("openrouter", 30), ("chutes", 10)):
        histogram = [0] * (slot - 1) + [10]
        await insert(
            operator, "usage_by_offer", **columns, provider=provider, completion_tokens=1,
            cached_tokens=0, reasoning_tokens=0, cost_nano=0, upstream_cost_nano=0, durations=histogram,
            first_bytes=histogram,
        )  # fmt: skip
    assert await operator.fetchval("select api.measure_offers()") == '{"measured": 2}'
    fast = {"sort": "latency"}
    hold = await call("authorize", **a_request(caller, models=[MODEL], preferences=fast))
    assert [offer["provider"] for offer in hold["offers"]] == ["chutes", "openrouter"]
    await operator.execute("update gateway.offers set priority = 0 where model_id = $1", MODEL)
    await insert(operator, "usage_errors", hour=hour, model=MODEL, provider="chutes", error="provider_error", count=5)
    await operator.fetchval("select api.measure_offers()")
    assert await serve(caller) == ["openrouter", "chutes"]
