"""GET /ranking/models: from our own usage, and of no model that only a few use."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness.builders import insert

if TYPE_CHECKING:
    from tests.harness.gateway import InProcess


async def used(gateway: InProcess, model: str, users: int, hours_ago: int, tokens: int) -> None:
    """An hour in which so many users used a model."""
    hour = await gateway.books.fetchval("select date_trunc('hour', now()) - $1 * interval '1 hour'", hours_ago)
    await insert(
        gateway.books, "usage_by_offer", hour=hour, model=model, provider="openrouter", requests=users, errors=0,
        byok_requests=0, prompt_tokens=tokens - 1, completion_tokens=1, cached_tokens=0, reasoning_tokens=0,
        cost_nano=1000 * users, upstream_cost_nano=0, durations=[1], first_bytes=[1],
    )  # fmt: skip
    for user in range(users):
        await gateway.books.execute(
            "insert into gateway.model_users values (($1::timestamptz at time zone 'utc')::date, $2, $3)"
            " on conflict do nothing", hour, model, user,
        )  # fmt: skip


async def ranked(gateway: InProcess, query: str = "") -> dict[str, Any]:
    await gateway.books.fetchval("select api.refresh_ranking()")
    told: dict[str, Any] = (await gateway.client.get(f"/ranking/models?{query}")).json()
    return told


async def test_models_are_ranked_by_what_was_used(gateway: InProcess):
    await used(gateway, "acme/many", 9, 2, 500)
    await used(gateway, "acme/long", 5, 2, 10**12)
    await used(gateway, "acme/few", 4, 2, 10**13)
    told = await ranked(gateway, "period=day")
    assert [(row["rank"], row["model_name"], row["total_tokens"]) for row in told["data"]] == [
        (1, "acme/long", str(10**12)),
        (2, "acme/many", "500"),
    ]
    by_requests = await ranked(gateway, "metric=requests")
    assert [row["model_name"] for row in by_requests["data"]] == ["acme/many", "acme/long"]
    page = await ranked(gateway, "metric=spend&limit=1&offset=1")
    assert ([row["model_name"] for row in page["data"]], page["count"]) == (["acme/long"], 2)
    assert told["data"][0]["trend_direction"] == "new"
    assert told["meta"]["source"].startswith("own usage")
    assert told["meta"]["start_date"] < told["meta"]["end_date"]


async def test_a_trend_is_against_the_period_before(gateway: InProcess):
    await used(gateway, "acme/up", 5, 2, 300)
    await used(gateway, "acme/up", 5, 30, 200)
    await used(gateway, "acme/down", 5, 2, 50)
    await used(gateway, "acme/down", 5, 30, 200)
    await used(gateway, "acme/gone", 5, 30, 200)
    trends = {row["model_name"]: row for row in (await ranked(gateway, "period=day"))["data"]}
    assert trends.keys() == {"acme/up", "acme/down"}
    assert (trends["acme/up"]["trend_percentage"], trends["acme/up"]["trend_direction"]) == (50, "up")
    assert (trends["acme/down"]["trend_percentage"], trends["acme/down"]["trend_direction"]) == (-75, "down")
    weeks = (await ranked(gateway, "period=week"))["data"]
    assert {row["model_name"]: row["tokens"] for row in weeks} == {"acme/up": 500, "acme/down": 250, "acme/gone": 200}


async def test_what_users_really_do_is_what_is_ranked(gateway: InProcess):
    for number in range(5):
        await gateway.customer(10**9, f"user {number}")
        assert (await gateway.ask()).status_code == 200
        await gateway.ended(number + 1)
    assert json.loads(await gateway.books.fetchval("select api.roll_up_usage(100)"))["counted"] == 5
    told = await ranked(gateway, "period=day")
    assert [(row["model_name"], row["requests"]) for row in told["data"]] == [("sandbox/chat", 5)]


@pytest.mark.parametrize("query", ["period=year", "metric=fame", "limit=0", "limit=101", "offset=-1"])
async def test_a_bad_parameter_is_refused(gateway: InProcess, query: str):
    assert (await gateway.client.get(f"/ranking/models?{query}")).status_code == 422


async def test_nothing_was_used_yet(gateway: InProcess):
    told = await ranked(gateway)
    assert (told["data"], told["count"], told["meta"]["start_date"]) == ([], 0, None)
