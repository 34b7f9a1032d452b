"""Balances, watched: each mark is told once, to whom it concerns, at a cost that is what was spent."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from gateway import balances
from gateway.database import call
from gateway.money import NANO
from tests.harness.builders import TEST, a_caller, a_settlement, a_user, crowd, insert

if TYPE_CHECKING:
    from tests.harness.builders import Caller, Connection
    from tests.harness.postgres import Database

pytestmark = pytest.mark.usefixtures("service")

NOW = datetime.now(UTC)
TODAY = NOW.date()
MONDAY = TODAY - timedelta(days=TODAY.weekday())


async def spend(caller: Caller, dollars: float, *, watch: bool = True) -> None:
    """A settled request, added up, and looked at."""
    await call("settle", **a_settlement(caller, str(uuid4()), int(dollars * NANO)))
    if watch:
        await look()


async def look() -> None:
    await call("roll_up_usage", most=1000)
    await balances.watch()


async def top_up(operator: Connection, user_id: int, dollars: float, kind: str = "paid") -> None:
    reference = str(uuid4())
    await operator.execute(
        "select api.grant($1, $2, $3, 'test', $4, $5)", user_id, reference, int(dollars * NANO), TEST, kind
    )


async def told(operator: Connection, name: str) -> list[dict[str, Any]]:
    """The payloads of an event, in turn."""
    rows = await operator.fetch("select payload from gateway.outbox where event = $1 order by id", name)
    return [json.loads(row["payload"]) for row in rows]


async def percents(operator: Connection) -> list[int]:
    return [payload["percent"] for payload in await told(operator, "balance.spent")]


async def rich(operator: Connection, dollars: float = 10) -> Caller:
    return await a_caller(operator, credit_nano=int(dollars * NANO))


async def test_a_balance_that_falls_below_its_owners_mark_is_told_once(operator: Connection) -> None:
    caller = await rich(operator)
    await spend(caller, 5)
    assert await told(operator, "balance.low") == []
    await spend(caller, 0.5)
    expected = {"user_id": caller.user_id, "available_nano": int(4.5 * NANO), "low_balance_nano": 5 * NANO}
    assert await told(operator, "balance.low") == [expected]
    await spend(caller, 1)
    await look()
    assert len(await told(operator, "balance.low")) == 1


async def test_it_is_told_again_when_it_was_above_in_between(operator: Connection) -> None:
    caller = await rich(operator)
    await spend(caller, 6)
    await top_up(operator, caller.user_id, 10)
    await spend(caller, 1)
    assert len(await told(operator, "balance.low")) == 1
    await spend(caller, 9)
    assert len(await told(operator, "balance.low")) == 2


async def test_also_when_that_was_between_two_runs(operator: Connection) -> None:
    caller = await rich(operator)
    await spend(caller, 6)
    await top_up(operator, caller.user_id, 10)
    await spend(caller, 6, watch=False)
    await spend(caller, 6)
    assert len(await told(operator, "balance.low")) == 2


async def test_a_top_up_that_does_not_lift_it_is_no_news(operator: Connection) -> None:
    caller = await rich(operator)
    await spend(caller, 8)
    await top_up(operator, caller.user_id, 1)
    await spend(caller, 0.1)
    assert len(await told(operator, "balance.low")) == 1


async def test_a_balance_that_was_never_above_has_not_fallen(operator: Connection) -> None:
    caller = await rich(operator, 3)
    await spend(caller, 1)
    await spend(caller, 1)
    assert await told(operator, "balance.low") == []
    await top_up(operator, caller.user_id, 10)
    await spend(caller, 8)
    assert len(await told(operator, "balance.low")) == 1


async def test_the_mark_is_the_users_own(operator: Connection) -> None:
    caller = await rich(operator)
    changes = {"low_balance_nano": 9 * NANO, "low_balance": False}
    await call("set_preferences", user_id=caller.user_id, changes=changes, actor={"name": "test"})
    await spend(caller, 2)
    assert [payload["low_balance_nano"] for payload in await told(operator, "balance.low")] == [9 * NANO]


async def test_what_requests_in_flight_hold_is_not_gone(operator: Connection) -> None:
    caller = await rich(operator)
    await insert(
        operator, "credit_holds", id=uuid4(), user_id=caller.user_id, key_id=caller.key_id, bound_nano=8 * NANO,
        expires_at=NOW + timedelta(minutes=20),
    )  # fmt: skip
    await operator.execute("update gateway.users set held_nano = $1 where id = $2", 8 * NANO, caller.user_id)
    await spend(caller, 1)
    assert await told(operator, "balance.low") == []


async def test_each_part_of_a_top_up_is_told_once(operator: Connection) -> None:
    caller = await rich(operator, 0)
    await top_up(operator, caller.user_id, 100)
    steps = [(49.99, []), (0.01, [50]), (29, [50]), (1, [50, 80]), (19, [50, 80, 95]), (1, [50, 80, 95, 100])]
    for dollars, expected in steps:
        await spend(caller, dollars)
        assert await percents(operator) == expected
    await spend(caller, 5)
    assert await percents(operator) == [50, 80, 95, 100]
    first = (await told(operator, "balance.spent"))[0]
    assert (first["user_id"], first["top_up_nano"], first["left_nano"]) == (caller.user_id, 100 * NANO, 50 * NANO)


async def test_a_further_top_up_begins_anew(operator: Connection) -> None:
    caller = await rich(operator, 0)
    await top_up(operator, caller.user_id, 10)
    await spend(caller, 8)
    assert await percents(operator) == [50, 80]
    await top_up(operator, caller.user_id, 10)
    await spend(caller, 1)  # of the first one still
    assert await percents(operator) == [50, 80]
    await spend(caller, 11)
    assert await percents(operator) == [50, 80, 50, 80, 95, 100]


async def test_a_present_is_no_top_up_of_who_pays(operator: Connection) -> None:
    caller = await rich(operator, 0)
    await top_up(operator, caller.user_id, 10)
    await top_up(operator, caller.user_id, 2, "promotional")
    await spend(caller, 2)  # the present is spent first
    assert await percents(operator) == []
    await spend(caller, 5)
    assert await percents(operator) == [50]


async def a_past(operator: Connection, caller: Caller, dollars: int, days: int = 7) -> None:
    """So much was spent on each of the last days, by an account of ten."""
    await operator.execute("update gateway.users set created_at = now() - interval '10 days'")
    columns = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
    zeros = dict.fromkeys((*columns, "errors", "byok_requests", "upstream_cost_nano"), 0)
    for back in range(1, days + 1):
        await insert(
            operator, "usage_by_key", user_id=caller.user_id, key_id=caller.key_id, day=TODAY - timedelta(days=back),
            cost_nano=dollars * NANO, durations=[], first_bytes=[], **zeros,
        )  # fmt: skip


@pytest.mark.parametrize(
    ("a_day", "spent", "bursts"),
    [(24, 5, 0), (24, 5.01, 1), (0, 1, 0), (0, 1.01, 1), (1, 0.9, 0)],
    ids=["five times", "more", "a dollar", "a quiet account", "less than a dollar"],
)
async def test_money_that_goes_faster_than_it_does(operator: Connection, a_day: int, spent: float, bursts: int) -> None:
    caller = await rich(operator, 1000)
    await a_past(operator, caller, a_day)
    await spend(caller, spent)
    assert len(await told(operator, "spend.burst")) == bursts
    await spend(caller, spent)
    if bursts:
        (payload,) = await told(operator, "spend.burst")
        assert payload == {
            "user_id": caller.user_id, "last_hour_nano": int(spent * NANO), "average_hour_nano": a_day * NANO // 24,
        }  # fmt: skip


async def test_a_burst_is_told_once_a_top_up(operator: Connection) -> None:
    caller = await rich(operator, 1000)
    await a_past(operator, caller, 1)
    for _ in range(3):
        await spend(caller, 2)
    assert len(await told(operator, "spend.burst")) == 1
    await top_up(operator, caller.user_id, 10)
    await spend(caller, 2)
    assert len(await told(operator, "spend.burst")) == 2


async def test_an_account_of_today_has_no_habit(operator: Connection) -> None:
    caller = await rich(operator, 1000)
    await spend(caller, 50)
    assert await told(operator, "spend.burst") == []


async def test_what_was_spent_before_the_last_hour_is_no_burst(operator: Connection) -> None:
    caller = await rich(operator, 1000)
    await a_past(operator, caller, 1)
    await spend(caller, 5, watch=False)
    await call("roll_up_usage", most=1000)
    await operator.execute("update gateway.recent_spend set slot = slot - interval '61 minutes'")
    await balances.watch()
    assert await told(operator, "spend.burst") == []


async def test_only_those_who_spent_are_looked_at(operator: Connection) -> None:
    quiet = [await a_user(operator, credit_nano=NANO) for _ in range(5)]
    spender = await rich(operator)
    await spend(spender, 1)
    assert await operator.fetchval("select array_agg(user_id) from gateway.spend_marks") == [spender.user_id]
    assert await balances.watch() == {"watched": 0}
    assert quiet


async def test_what_is_watched_is_forgotten_after_some_hours(operator: Connection) -> None:
    caller = await rich(operator)
    await spend(caller, 1)
    await operator.execute("update gateway.recent_spend set slot = slot - interval '4 hours'")
    await balances.watch()
    assert await operator.fetchval("select count(*) from gateway.recent_spend") == 0


async def test_more_than_a_batch_is_looked_at(operator: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balances, "BATCH", 2)
    callers = [await rich(operator) for _ in range(5)]
    for caller in callers:
        await spend(caller, 6, watch=False)
    await look()
    assert {payload["user_id"] for payload in await told(operator, "balance.low")} == {c.user_id for c in callers}


async def test_watches_at_once_tell_each_thing_once(operator: Connection, database: Database) -> None:
    callers = [await rich(operator) for _ in range(8)]
    for caller in callers:
        await spend(caller, 6, watch=False)
    await call("roll_up_usage", most=1000)
    # the same users in two slots: one watch may have one, and another the other
    await operator.execute(
        "insert into gateway.recent_spend select user_id, slot - interval '10 minutes', 1 from gateway.recent_spend"
    )
    async with crowd(database.service, 8) as ask:
        runs = await asyncio.gather(*(ask("watch_balances", most=5) for _ in range(8)))
    assert sum(run["watched"] for run in runs) == 16
    assert sorted(payload["user_id"] for payload in await told(operator, "balance.low")) == sorted(
        caller.user_id for caller in callers
    )
    assert await percents(operator) == [50] * 8


# ------------------------------------------------------------------------------------------------ reports


async def used(operator: Connection, caller: Caller, day: date, dollars: int) -> None:
    zeros = dict.fromkeys(("cached_tokens", "reasoning_tokens", "errors", "byok_requests", "upstream_cost_nano"), 0)
    await insert(
        operator, "usage_by_key", user_id=caller.user_id, key_id=caller.key_id, day=day, requests=3, prompt_tokens=20,
        completion_tokens=10, cost_nano=dollars * NANO, durations=[], first_bytes=[], **zeros,
    )  # fmt: skip


async def a_reader(operator: Connection) -> Caller:
    caller = await rich(operator)
    changes = {"usage_report": True}
    await call("set_preferences", user_id=caller.user_id, changes=changes, actor={"name": "test"})
    return caller


async def test_a_week_is_reported_once_to_who_wants_it(operator: Connection) -> None:
    reader, other, idle = await a_reader(operator), await rich(operator), await a_reader(operator)
    for caller in (reader, other):
        for back, dollars in ((0, 100), (1, 1), (7, 2), (8, 100)):
            await used(operator, caller, MONDAY - timedelta(days=back), dollars)
    assert await balances.report() == {"reported": 0}, "the week's usage is not added up"
    await call("roll_up_usage", most=10)
    assert await balances.report() == {"reported": 1}
    assert await balances.report() == {"reported": 0}
    (payload,) = await told(operator, "usage.report")
    assert (payload["user_id"], payload["requests"], payload["tokens"]) == (reader.user_id, 6, 60)
    assert (payload["cost_nano"], payload["keys"][0]["cost_nano"]) == (3 * NANO, 3 * NANO)
    assert (payload["from"], payload["to"]) == (str(MONDAY - timedelta(days=7)), str(MONDAY - timedelta(days=1)))
    assert idle.user_id not in {reader.user_id, other.user_id}


async def test_the_next_week_is_reported_in_its_turn(
    operator: Connection, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balances, "BATCH", 2)
    readers = [await a_reader(operator) for _ in range(5)]
    for reader in readers:
        await used(operator, reader, MONDAY - timedelta(days=3), 1)
    await call("roll_up_usage", most=10)
    async with crowd(database.service, 4) as ask:
        await asyncio.gather(*(ask("report_usage", most=2) for _ in range(4)))
    await balances.report()
    assert sorted(payload["user_id"] for payload in await told(operator, "usage.report")) == [
        reader.user_id for reader in readers
    ]
    await operator.execute("update gateway.spend_marks set reported_week = reported_week - 7")
    assert await balances.report() == {"reported": 0}, "the job is done with this week"
    week_ago = "update gateway.rollups set until = until - interval '7 days' where name = 'usage_reports'"
    await operator.execute(week_ago)
    assert await balances.report() == {"reported": 5}
