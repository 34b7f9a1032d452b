"""Usage added up: each record once, whenever it is committed and however the runs fall; read from the sums alone."""

from __future__ import annotations

import asyncio
import json
import math
from collections import Counter, defaultdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import usage
from gateway.database import call
from tests.harness.builders import BOUND, a_caller, a_request, a_settlement, crowd, dump, insert

if TYPE_CHECKING:
    from tests.harness.builders import Caller, Connection
    from tests.harness.postgres import Database

pytestmark = pytest.mark.usefixtures("service")

NOON = datetime.now(UTC).replace(hour=12, minute=0, second=0, microsecond=0) - timedelta(days=1)
TODAY = datetime.now(UTC).date()
SUMS = ("gateway.usage_by_offer", "gateway.usage_by_key", "gateway.usage_errors", "gateway.key_networks")
RECORD: dict[str, Any] = {
    "model": "acme/one", "provider": "openrouter", "prompt_tokens": 10, "completion_tokens": 5, "cached_tokens": 2,
    "reasoning_tokens": 1, "cost_nano": 0, "upstream_cost_nano": 0, "is_estimated": False, "is_streamed": False,
    "outcome": "failed", "duration_ms": 5,
}  # fmt: skip
"""A record that stands without a hold."""


async def a_record(operator: Connection, user_id: int = 1, key_id: int = 1, **columns: Any) -> None:
    await insert(operator, "usage_records", **RECORD | {"id": uuid4(), "user_id": user_id, "key_id": key_id} | columns)


async def served(caller: Caller, **changes: Any) -> str:
    """A request that was served and settled; its hold's id."""
    request = a_request(caller)
    await call("authorize", **request)
    await call("settle", **a_settlement(caller, request["hold_id"], **changes))
    hold_id: str = request["hold_id"]
    return hold_id


async def sums(operator: Connection) -> dict[str, list[str]]:
    found = await dump(operator)
    return {name: found[name] for name in SUMS}


async def counted(operator: Connection) -> int:
    return int(await operator.fetchval("select coalesce(sum(requests), 0) from gateway.usage_by_key"))


async def test_what_was_served_is_added_up_by_offer_and_by_key(operator: Connection) -> None:
    caller = await a_caller(operator)
    await served(
        caller, upstream_cost_nano=100, duration_ms=1000, first_byte_ms=90, cached_tokens=3, reasoning_tokens=4
    )
    await served(caller, cost_nano=0, upstream_cost_nano=70, is_byok=True, duration_ms=1000)
    attempts = [{"provider": "chutes", "error": "provider_timeout"}]
    await served(caller, cost_nano=7, outcome="cut", attempts=attempts)
    await a_record(operator, caller.user_id, caller.key_id, error="provider_error", duration_ms=9)
    assert await usage.roll_up() == {"counted": 4}
    hour = await operator.fetchrow("select * from gateway.usage_by_offer")
    day = await operator.fetchrow("select * from gateway.usage_by_key")
    assert hour is not None
    assert day is not None
    assert (day["user_id"], day["key_id"], day["day"]) == (caller.user_id, caller.key_id, TODAY)
    for row in (hour, day):
        assert (row["requests"], row["errors"], row["byok_requests"]) == (4, 2, 1)
        assert (row["prompt_tokens"], row["completion_tokens"]) == (40, 35)
        assert (row["cached_tokens"], row["reasoning_tokens"]) == (5, 5)
        assert (row["cost_nano"], row["upstream_cost_nano"]) == (BOUND + 7, 100)
        assert (sum(row["durations"]), sum(row["first_bytes"])) == (3, 1)
    errors = await operator.fetch("select provider, error, count from gateway.usage_errors order by 1, 2")
    assert [tuple(row) for row in errors] == [
        ("chutes", "provider_timeout", 1), ("openrouter", "cut", 1), ("openrouter", "provider_error", 1)
    ]  # fmt: skip


async def test_networks_of_a_key_are_remembered_from_first_to_last(operator: Connection) -> None:
    caller = await a_caller(operator)
    for minutes in (5, 1, 9):
        at = NOON + timedelta(minutes=minutes)
        await a_record(operator, caller.user_id, caller.key_id, network="203.0.113.0/24", created_at=at)
    await a_record(operator, caller.user_id, caller.key_id, network="0.0.0.0/0")
    await a_record(operator, caller.user_id, 999_999, network="203.0.113.0/24")
    await usage.roll_up()
    rows = await operator.fetch("select key_id, network::text, first_seen, last_seen from gateway.key_networks")
    first, last = NOON + timedelta(minutes=1), NOON + timedelta(minutes=9)
    assert [tuple(row) for row in rows] == [(caller.key_id, "203.0.113.0/24", first, last)]


async def test_a_settlement_that_commits_late_is_counted_all_the_same(operator: Connection, database: Database) -> None:
    """Its record is older than what was added up meanwhile, by an hour; no mark in time would come back for it."""
    slow, quick = await a_caller(operator), await a_caller(operator)
    late = await asyncpg.connect(database.admin)
    try:
        transaction = late.transaction()
        await transaction.start()
        usage_of = json.dumps(a_settlement(slow, "")["usage"])
        await late.fetchval("select api.settle($1, $2, $3, $4, null)", uuid4(), slow.user_id, slow.key_id, usage_of)
        past = datetime.now(UTC) - timedelta(hours=1)
        await a_record(late, slow.user_id, slow.key_id, created_at=past)
        await served(quick)
        assert await usage.roll_up() == {"counted": 1}
        assert await usage.roll_up() == {"counted": 0}
        await transaction.commit()
    finally:
        await late.close()
    assert await usage.roll_up() == {"counted": 2}
    assert await usage.roll_up() == {"counted": 0}
    assert await counted(operator) == 3


async def test_a_settlement_that_is_undone_is_not_counted(operator: Connection) -> None:
    caller = await a_caller(operator)
    transaction = operator.transaction()
    await transaction.start()
    await a_record(operator, caller.user_id, caller.key_id)
    await transaction.rollback()
    assert await usage.roll_up() == {"counted": 0}


async def test_runs_at_once_count_each_record_once(operator: Connection, database: Database) -> None:
    for _ in range(40):
        await a_record(operator)
    async with crowd(database.service, 16) as ask:
        runs = await asyncio.gather(*(ask("roll_up_usage", most=3) for _ in range(16)))
    assert sum(run["counted"] for run in runs) == 40
    assert await counted(operator) == 40


async def test_a_run_is_bounded_and_the_next_one_goes_on(operator: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(usage, "BATCH", 2)
    monkeypatch.setattr(usage, "MOST_BATCHES", 3)
    for _ in range(7):
        await a_record(operator)
    before = await operator.fetchval("select until from gateway.rollups where name = 'usage'")
    assert await usage.roll_up() == {"counted": 6}
    assert await operator.fetchval("select until from gateway.rollups where name = 'usage'") == before
    assert await usage.roll_up() == {"counted": 1}
    assert await operator.fetchval(
        "select until > now() - interval '1 minute' from gateway.rollups where name = 'usage'"
    )
    assert await operator.fetchval("select count(*) from gateway.usage_uncounted") == 0


async def test_a_record_that_is_gone_does_not_stop_the_others(operator: Connection) -> None:
    gone = uuid4()
    await a_record(operator, id=gone)
    await a_record(operator)
    await operator.execute("delete from gateway.usage_records where id = $1", gone)
    assert await usage.roll_up() == {"counted": 2}
    assert await counted(operator) == 1


async def test_records_of_another_month_are_found(operator: Connection) -> None:
    for days in (40, 400, -40):
        await a_record(operator, created_at=datetime.now(UTC) - timedelta(days=days))
    await usage.roll_up()
    assert await counted(operator) == 3


def bucket(ms: int) -> int:
    """`api.bucket`, by another way: the powers of 1.25 that a time has reached."""
    return sum(1 for power in range(64) if power == 0 or 5**power <= ms * 4**power)


def recomputed(records: list[dict[str, Any]]) -> tuple[Any, Any, Any]:
    """What the sums must be, from the records."""
    offers: dict[Any, Counter[Any]] = defaultdict(Counter)
    keys: dict[Any, Counter[Any]] = defaultdict(Counter)
    errors: Counter[Any] = Counter()
    for record in records:
        at: datetime = record["created_at"]
        hour = at.replace(minute=0, second=0, microsecond=0)
        failed = record["outcome"] in {"failed", "cut"}
        added: Counter[Any] = Counter(
            requests=1, errors=int(failed), byok_requests=int(record["is_byok"]),
            prompt_tokens=record["prompt_tokens"], cost_nano=record["cost_nano"],
            upstream_cost_nano=0 if record["is_byok"] else record["upstream_cost_nano"] or 0,
        )  # fmt: skip
        if record["outcome"] != "failed":
            added["durations", bucket(record["duration_ms"])] += 1
        if record["first_byte_ms"] is not None:
            added["first_bytes", bucket(record["first_byte_ms"])] += 1
        offers[hour, record["model"], record["provider"]].update(added)
        keys[record["user_id"], record["key_id"], at.date()].update(added)
        if failed:
            errors[hour, record["model"], record["provider"], record["error"] or record["outcome"]] += 1
    return offers, keys, errors


def stored(row: asyncpg.Record) -> Counter[Any]:
    """A row of sums in the form of `recomputed`."""
    names = ("requests", "errors", "byok_requests", "prompt_tokens", "cost_nano", "upstream_cost_nano")
    found: Counter[Any] = Counter({name: row[name] for name in names})
    for histogram in ("durations", "first_bytes"):
        found.update({(histogram, place): count for place, count in enumerate(row[histogram], 1) if count})
    return found


RECORDS = st.fixed_dictionaries(
    {
        "user_id": st.integers(1, 2), "key_id": st.integers(1, 2),
        "model": st.sampled_from(["acme/one", "acme/two"]), "provider": st.sampled_from(["openrouter", "chutes"]),
        "prompt_tokens": st.integers(0, 10**7), "cost_nano": st.integers(0, 10**12),
        "upstream_cost_nano": st.none() | st.integers(0, 10**12), "is_byok": st.booleans(),
        "outcome": st.sampled_from(["completed", "cut", "cancelled", "failed"]),
        "error": st.none() | st.sampled_from(["provider_error", "provider_timeout"]),
        "duration_ms": st.integers(0, 2_000_000), "first_byte_ms": st.none() | st.integers(0, 100_000),
        "created_at": st.integers(-3000, 3000).map(lambda minutes: NOON + timedelta(minutes=minutes)),
    }
)  # fmt: skip
STEPS = st.lists(RECORDS | st.integers(1, 4), max_size=25)
"""Records as they come, and runs of the roll-up between them, of so many records each."""


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=STEPS)
async def test_the_sums_are_those_of_the_records_however_the_runs_fall(operator: Connection, steps: list[Any]) -> None:
    await operator.execute("truncate gateway.usage_by_offer, gateway.usage_by_key, gateway.usage_errors")
    records = [step for step in steps if isinstance(step, dict)]
    try:
        for step in steps:
            if isinstance(step, dict):
                await a_record(operator, **step)
            else:
                await call("roll_up_usage", most=step)
        await usage.roll_up()
    finally:
        # these records have no holds, which the ledger's rules would not have
        await operator.execute("truncate gateway.usage_records, gateway.usage_uncounted")
    offers, keys, errors = recomputed(records)
    found = await operator.fetch("select * from gateway.usage_by_offer")
    assert {(row["hour"], row["model"], row["provider"]): stored(row) for row in found} == offers
    found = await operator.fetch("select * from gateway.usage_by_key")
    assert {(row["user_id"], row["key_id"], row["day"]): stored(row) for row in found} == keys
    found = await operator.fetch("select * from gateway.usage_errors")
    assert {(row["hour"], row["model"], row["provider"], row["error"]): row["count"] for row in found} == errors


@settings(deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(times=st.lists(st.integers(1, 1_270_000), min_size=1, max_size=60), share=st.sampled_from([50, 95, 99]))
async def test_a_percentile_is_off_by_12_percent_at_most(operator: Connection, times: list[int], share: int) -> None:
    told = await operator.fetchval("select api.percentile(api.histogram($1), $2::integer / 100.0)", times, share)
    true = sorted(times)[math.ceil(len(times) * share / 100) - 1]
    # half a millisecond more for the rounding of what is told
    assert true / 1.1181 - 0.5 <= told <= true * 1.1181 + 0.5


async def test_a_histogram_of_nothing_has_no_percentile(operator: Connection) -> None:
    assert await operator.fetchval("select api.histogram('{}')") == []
    assert await operator.fetchval("select api.percentile('{}', 0.5)") is None
    assert await operator.fetchval("select api.percentile(null, 0.5)") is None
    assert await operator.fetchval("select api.percentile('{0,0}', 0.5)") is None
    ends = "select array[api.bucket(-1), api.bucket(0), api.bucket(1), api.bucket(2147483647)]"
    assert await operator.fetchval(ends) == [1, 1, 1, 64]


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(inner for each in plan.get("Plans", []) for inner in nodes(each))]


QUESTIONS = {
    "model": "select api.usage_of_offers('model', '{0}', '{0}', null, null, null, 51)",
    "day": "select api.usage_of_offers('day', '{0}', '{0}', 'acme/one', 'openrouter', null, 51)",
    "user": "select api.usage_of_customers('user', '{0}', '{0}', null, null, null, 51)",
    "key": "select api.usage_of_customers('key', '{0}', '{0}', 1, 1, null, 51)",
    "monitor": "select api.monitor(24)",
}


@pytest.mark.parametrize("question", QUESTIONS)
async def test_no_question_reads_the_records(operator: Connection, database: Database, question: str) -> None:
    """By the plans of what the functions run, as Postgres itself tells them (auto_explain)."""
    caller = await a_caller(operator)
    await served(caller)
    await usage.roll_up()
    told: list[str] = []
    watching = await asyncpg.connect(database.admin)
    try:
        watching.add_log_listener(lambda _, message: told.append(message.message))
        await watching.execute(
            "load 'auto_explain'; set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on;"
            " set auto_explain.log_format = 'json'; set auto_explain.log_level = 'notice'"
        )
        await watching.fetchval(QUESTIONS[question].format(TODAY))
    finally:
        await watching.close()
    plans = [json.loads(text[text.index("{") :]) for text in told if "plan:" in text]
    read = {node["Relation Name"] for plan in plans for node in nodes(plan["Plan"]) if "Relation Name" in node}
    assert read & {"usage_by_offer", "usage_by_key"}
    assert not {name for name in read if name.startswith(("usage_records", "credit_transactions"))}


async def test_what_was_served_is_asked_for_by_whatever_name(operator: Connection) -> None:
    caller, other = await a_caller(operator), await a_caller(operator)
    await served(caller)
    await served(other)
    await usage.roll_up()
    for group_by, name in (("model", "acme/one"), ("provider", "openrouter"), ("day", str(TODAY))):
        report = await usage.report(usage.Question(group_by, TODAY, TODAY))
        assert [(row[group_by], row["requests"]) for row in report["data"]] == [(name, 2)]
        assert report["totals"]["requests"] == 2
    for group_by, names in (
        ("user", [other.user_id, caller.user_id]),
        ("key", [other.key_id, caller.key_id]),
    ):
        report = await usage.report(usage.Question(group_by, TODAY, TODAY))
        assert [(row[group_by], row["requests"]) for row in report["data"]] == [(name, 1) for name in names]
        one = await usage.report(usage.Question(group_by, TODAY, TODAY, user_id=caller.user_id))
        assert [row[group_by] for row in one["data"]] == names[1:]
        assert one["totals"]["requests"] == 1
