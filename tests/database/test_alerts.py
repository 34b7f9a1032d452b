"""Alerts: what is out of the ordinary opens one, once; what is ordinary does not; and one may pause its key."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.database import call
from gateway.money import NANO
from tests.harness.builders import a_caller, a_request, insert

if TYPE_CHECKING:
    from tests.harness.builders import Caller, Connection

pytestmark = pytest.mark.usefixtures("service")

TODAY = datetime.now(UTC).date()
OPERATOR = {"name": "user:1"}


async def opened(operator: Connection, *, pause: bool = False) -> list[tuple[str, str]]:
    """The alerts that one run of the job opens."""
    before = await operator.fetchval("select coalesce(max(id), 0) from gateway.alerts")
    await call("raise_alerts", pause=pause)
    rows = await operator.fetch("select kind, subject from gateway.alerts where id > $1 order by id", before)
    return [tuple(row) for row in rows]


async def resolve_all(operator: Connection) -> None:
    for (alert_id,) in await operator.fetch("select id from gateway.alerts where resolved_at is null"):
        await call("resolve_alert", alert_id=alert_id, note="looked at", actor=OPERATOR)


async def refused(count: int, ip: str, subject: str, code: str = "invalid_api_key") -> None:
    for _ in range(count):
        await call("record_refusal", code=code, ip=ip, subject=subject)


async def a_day(operator: Connection, caller: Caller, day: date, cost_nano: int) -> None:
    """What a key spent on a day, as the roll-up has it."""
    columns = ("requests", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens")
    zeros = dict.fromkeys((*columns, "errors", "byok_requests", "upstream_cost_nano"), 0)
    await insert(
        operator, "usage_by_key", user_id=caller.user_id, key_id=caller.key_id, day=day, cost_nano=cost_nano,
        durations=[], first_bytes=[], **zeros,
    )  # fmt: skip


async def used_from(operator: Connection, caller: Caller, network: str, days_ago: float) -> None:
    at = datetime.now(UTC) - timedelta(days=days_ago)
    await insert(operator, "key_networks", key_id=caller.key_id, network=network, first_seen=at, last_seen=at)


async def test_a_hundred_refusals_of_a_network_in_an_hour_are_an_alert_once(operator: Connection) -> None:
    await refused(99, "203.0.113.7", "a")
    assert await opened(operator) == []
    await refused(1, "203.0.113.99", "b", "expired_api_key")
    assert await opened(operator) == [("refusals_burst", "network:203.0.113.0/24")]
    assert await opened(operator) == []
    await resolve_all(operator)
    assert await opened(operator) == []  # what had happened by then was known


async def test_what_is_no_guess_at_a_key_is_no_burst(operator: Connection) -> None:
    await refused(150, "203.0.113.7", "a", "role_required")
    assert await opened(operator) == []


async def test_a_key_that_is_refused_from_many_places_is_an_alert(operator: Connection) -> None:
    caller = await a_caller(operator)
    for number in range(100):
        await refused(1, f"203.0.{number}.7", caller.public_id)
    assert await opened(operator) == [("refusals_burst", f"key:{caller.key_id}")]


async def test_a_key_in_a_network_where_it_never_was(operator: Connection) -> None:
    caller = await a_caller(operator)
    await used_from(operator, caller, "203.0.113.0/24", 30)
    await used_from(operator, caller, "203.0.114.0/24", 25)  # while it was learnt, and long ago
    assert await opened(operator) == []
    await used_from(operator, caller, "198.51.100.0/24", 0.1)
    assert await opened(operator) == [("unusual_network", f"key:{caller.key_id}")]
    alert = await operator.fetchrow("select * from gateway.alerts")
    assert alert is not None
    assert (alert["user_id"], alert["key_id"]) == (caller.user_id, caller.key_id)
    assert json.loads(alert["detail"]) == {"networks": ["198.51.100.0/24"]}


async def test_a_new_key_and_one_that_is_at_home_everywhere_are_ordinary(operator: Connection) -> None:
    young, wanderer = await a_caller(operator), await a_caller(operator)
    await used_from(operator, young, "203.0.113.0/24", 6)
    await used_from(operator, young, "198.51.100.0/24", 0.1)
    for number in range(20):
        await used_from(operator, wanderer, f"10.0.{number}.0/24", 30)
    await used_from(operator, wanderer, "198.51.100.0/24", 0.1)
    assert await opened(operator) == []


@pytest.mark.parametrize(
    ("habit", "spent", "alerts"),
    [
        ([3] * 5, 15, 1),
        ([3] * 5, 14, 0),
        ([1] * 5, 9, 0),
        ([3] * 4, 100, 0),
        ([1, 1, 1, 9, 9, 9, 9], 44, 0),
        ([1, 1, 1, 9, 9, 9, 9], 45, 1),
    ],
    ids=["five times", "less", "under $10", "no habit yet", "under five medians", "five medians"],
)  # fmt: skip
async def test_spend_far_above_a_keys_habit(operator: Connection, habit: list[int], spent: int, alerts: int) -> None:
    caller = await a_caller(operator)
    for number, dollars in enumerate(habit, 2):
        await a_day(operator, caller, TODAY - timedelta(days=number), dollars * NANO)
    await a_day(operator, caller, TODAY, spent * NANO)
    assert await opened(operator) == [("unusual_spend", f"key:{caller.key_id}")] * alerts


async def test_an_alert_pauses_its_key_where_that_is_set_and_once(operator: Connection) -> None:
    caller = await a_caller(operator)
    await used_from(operator, caller, "203.0.113.0/24", 30)
    await used_from(operator, caller, "198.51.100.0/24", 0.1)
    assert await opened(operator) == [("unusual_network", f"key:{caller.key_id}")]
    status = "select status from gateway.api_keys where id = $1"
    assert await operator.fetchval(status, caller.key_id) == "active"
    await call("raise_alerts", pause=True)
    assert await operator.fetchval(status, caller.key_id) == "paused"
    entry = await operator.fetchrow("select actor, resource from gateway.audit_logs where action = 'key.paused'")
    assert entry is not None
    assert tuple(entry) == ("job:raise_alerts", f"key:{caller.key_id}")
    assert await operator.fetchval("select count(*) from gateway.outbox where event = 'key.paused'") == 1
    await operator.execute("update gateway.api_keys set status = 'active'")
    await call("raise_alerts", pause=True)
    assert await operator.fetchval(status, caller.key_id) == "active"
    await call("authorize", **a_request(caller))


async def test_a_burst_of_refusals_pauses_nobodys_key(operator: Connection) -> None:
    """Whoever reads a key's public id, in a log say, could else have it paused."""
    caller = await a_caller(operator)
    await refused(100, "203.0.113.7", caller.public_id)
    assert len(await opened(operator, pause=True)) == 2
    assert await operator.fetchval("select status from gateway.api_keys") == "active"


async def test_runs_at_once_open_each_alert_once(operator: Connection) -> None:
    await refused(100, "203.0.113.7", "a")
    await asyncio.gather(*(call("raise_alerts", pause=False) for _ in range(8)))
    assert await operator.fetchval("select count(*) from gateway.alerts") == 1
    assert await operator.fetchval("select count(*) from gateway.outbox where event = 'security.alert'") == 1


async def test_an_attack_makes_a_number_larger_and_not_the_table(operator: Connection) -> None:
    """Over 10,000 rows an hour all further ones are one row."""
    await operator.execute(
        "insert into gateway.refusals (hour, code, network, subject, count, last_at)"
        " select date_trunc('hour', clock_timestamp()), 'invalid_api_key', '10.0.0.0/24', n::text, 1, now()"
        " from generate_series(1, 10000) n"
    )
    for number in range(20):
        await refused(1, f"203.0.{number}.7", f"other {number}")
    await refused(1, "10.0.0.1", "1")
    assert await operator.fetchval("select count(*) from gateway.refusals") == 10_001
    assert await operator.fetchval("select sum(count) from gateway.refusals") == 10_021


async def test_refusals_are_audited_by_the_hour_once(operator: Connection) -> None:
    await refused(3, "203.0.113.7", "a")
    await refused(2, "203.0.114.7", "b", "expired_api_key")
    assert await call("audit_refusals") == {"hours": 0}  # the hour is not over
    await operator.execute("update gateway.refusals set hour = hour - interval '2 hours'")
    await operator.execute("update gateway.rollups set until = until - interval '3 hours' where name = 'refusals'")
    assert await call("audit_refusals") == {"hours": 1}
    assert await call("audit_refusals") == {"hours": 0}
    entries = await operator.fetch("select after from gateway.audit_logs where action = 'refusals.counted'")
    told: dict[str, Any] = json.loads(entries[0]["after"])
    assert len(entries) == 1
    assert told["codes"] == {"invalid_api_key": 3, "expired_api_key": 2}
    assert [(source["network"], source["count"]) for source in told["sources"]] == [
        ("203.0.113.0/24", 3),
        ("203.0.114.0/24", 2),
    ]


async def test_counts_of_refusals_go_after_thirty_days(operator: Connection) -> None:
    await refused(1, "203.0.113.7", "a")
    await operator.execute("update gateway.refusals set hour = hour - interval '31 days'")
    await operator.execute("update gateway.rollups set until = until - interval '40 days' where name = 'refusals'")
    await call("audit_refusals")
    assert await operator.fetchval("select count(*) from gateway.refusals") == 0
    assert await operator.fetchval("select count(*) from gateway.audit_logs where action = 'refusals.counted'") == 1


async def test_who_resolves_first_stands(operator: Connection) -> None:
    await refused(100, "203.0.113.7", "a")
    await opened(operator)
    alert_id = await operator.fetchval("select id from gateway.alerts")
    first = await call("resolve_alert", alert_id=alert_id, note="a scanner", actor=OPERATOR)
    second = await call("resolve_alert", alert_id=alert_id, note="mine", actor={"name": "user:2"})
    assert first == second
    assert (first["note"], first["resolved_by"]) == ("a scanner", "user:1")
    assert await operator.fetchval("select count(*) from gateway.audit_logs where action = 'alert.resolved'") == 1
