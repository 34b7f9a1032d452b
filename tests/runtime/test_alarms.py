"""Each alarm of the template, provoked: what it looks at is measured when what it is for happens, and not before."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gateway import telemetry
from local.cloudformation import Stack
from local.invocation import FunctionError
from local.metrics import Metrics
from tests.architecture.stack import deployed, of_type
from tests.harness.gateway import GPT, NOBODY, InProcess, OnLambda, answer, on_lambda
from tests.harness.upstream import Upstream, whole
from tests.runtime.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from tests.harness.postgres import Database

    type Provoke = Callable[[OnLambda], Awaitable[None]]

ALARMS = of_type(deployed(whole=True), "AWS::CloudWatch::Alarm")
NAMES = {
    **{name: name for name in deployed(whole=True)},
    **{f"{name}.QueueName": name for name in of_type(deployed(whole=True), "AWS::SQS::Queue")},
}
"""What Ref and GetAtt give of the resources here."""
STACK = Stack({"Parameters": {"Stage": {"Default": "dev"}}}, NAMES)


def observed(alarm: dict[str, Any], metrics: Metrics) -> float:
    """What an alarm compares with its threshold: its metric, or the sum of its metrics; 0 for nothing measured."""
    if "MetricName" in alarm:
        parts = [(alarm["Namespace"], alarm["MetricName"], alarm["Dimensions"], alarm["Statistic"])]
    else:
        (total,) = [each for each in alarm["Metrics"] if "Expression" in each]
        assert total["Expression"] == "SUM(METRICS())"
        stats = [each["MetricStat"] for each in alarm["Metrics"] if "MetricStat" in each]
        metric = [stat["Metric"] for stat in stats]
        parts = [
            (each["Namespace"], each["MetricName"], each["Dimensions"], stat["Stat"])
            for each, stat in zip(metric, stats, strict=True)
        ]
    values = [
        metrics.statistic(namespace, name, {each["Name"]: each["Value"] for each in STACK.resolve(dimensions)}, stat)
        for namespace, name, dimensions, stat in parts
    ]
    return sum(value or 0 for value in values)


def is_raised(name: str, metrics: Metrics) -> bool:
    alarm = ALARMS[f"{name}Alarm"]
    assert alarm["ComparisonOperator"] == "GreaterThanThreshold"
    return bool(observed(alarm, metrics) > alarm["Threshold"])


@asynccontextmanager
async def locked(gateway: OnLambda, table: str) -> AsyncIterator[None]:
    """Let whoever reads a table wait."""
    async with gateway.books.transaction():
        await gateway.books.execute(f"lock table gateway.{table} in access exclusive mode")
        yield


async def waiting(gateway: OnLambda) -> int:
    """How many sessions wait for a lock."""
    return int(await gateway.books.fetchval("select count(*) from pg_locks where not granted"))


async def eventually_waiting(gateway: OnLambda, count: int) -> None:
    async with asyncio.timeout(30):
        while await waiting(gateway) < count:  # noqa: ASYNC110 - the database has no events
            await asyncio.sleep(0.01)


async def crash_a_function(gateway: OnLambda) -> None:
    async with locked(gateway, "api_keys"):
        asked = asyncio.create_task(gateway.client.get("/v1/key", headers=gateway.headers()))
        await eventually_waiting(gateway, 1)
        gateway.kill("AccountFunction")
        assert (await asked).status_code == 502


async def ask_too_much_at_once(gateway: OnLambda) -> None:
    reserved = gateway.aws.pools["AdminFunction"].function.reserved
    assert reserved == 5
    path, headers = "/admin/users", gateway.headers(key=gateway.admin_key)
    async with locked(gateway, "api_keys"):
        asked = [asyncio.create_task(gateway.client.get(path, headers=headers)) for _ in range(reserved)]
        await eventually_waiting(gateway, reserved)
        assert (await gateway.client.get(path, headers=headers)).status_code == 500
    assert {response.status_code for response in await asyncio.gather(*asked)} == {200}


async def fail_a_job(gateway: OnLambda) -> None:
    await gateway.books.execute("alter function api.purge_outbox rename to gone")
    with pytest.raises(FunctionError, match="DatabaseUnavailable"):
        await gateway.aws.send("JobsFunction", {"job": "purge_outbox"})


async def answer_5xx(gateway: OnLambda) -> None:
    await gateway.books.execute("drop function api.key_status")
    assert (await gateway.client.get("/v1/key", headers=gateway.headers())).status_code >= 500


async def break_the_books(gateway: OnLambda) -> None:
    await gateway.books.execute("update gateway.users set credits_nano = credits_nano + 1")
    await gateway.aws.invoke("JobsFunction", {"job": "check_ledger"})
    await gateway.books.execute("update gateway.users set credits_nano = credits_nano - 1")


async def die_in_mid_stream(gateway: OnLambda) -> None:
    async with gateway.reading(model="sandbox/slow") as chunks:
        await anext(chunks)
        gateway.kill()
    await gateway.sweep()


async def keep_a_charge_waiting(gateway: OnLambda) -> None:
    await gateway.books.execute("alter function api.settle rename to gone")
    assert (await gateway.ask()).status_code == 200
    queue = gateway.aws.sqs.queues["SettlementQueue"]
    await until(lambda: len(queue))
    for message in queue._messages.values():
        message.sent -= 3600  # an hour later
    await gateway.books.execute("alter function api.gone rename to settle")


async def lose_the_database(gateway: OnLambda) -> None:
    for _ in range(11):
        assert (await gateway.client.get("/v1/key", headers=gateway.headers())).status_code == 503


PROVOKED: dict[str, Provoke] = {
    "FunctionErrors": crash_a_function,
    "Throttles": ask_too_much_at_once,
    "JobErrors": fail_a_job,
    "ServerErrors": answer_5xx,
    "LedgerViolations": break_the_books,
    "UnsettledHolds": die_in_mid_stream,
    "SettlementsWaiting": keep_a_charge_waiting,
    "DeadLetters": fail_a_job,
    "DatabaseFailures": lose_the_database,
}
INSIDE = {"SettlementsLost", "UsageNotBelieved"}
"""Provoked without Lambda: there the queue takes what the database does not, and the sandbox reports what is true."""


def test_every_alarm_is_provoked_here():
    assert {name.removesuffix("Alarm") for name in ALARMS} == PROVOKED.keys() | INSIDE


@pytest.mark.parametrize("name", PROVOKED)
async def test_what_an_alarm_is_for_raises_it(database: Database, tmp_path: Path, name: str):
    away = (lambda _: {"DATABASE_URL": NOBODY}) if name == "DatabaseFailures" else None
    async with on_lambda(database, tmp_path, own=away, parameters={"ReservedConcurrency": "true"}) as gateway:
        if not away:
            assert (await gateway.ask()).status_code == 200
            await gateway.ended()
            await gateway.aws.invoke("JobsFunction", {"job": "check_ledger"})
            await gateway.aws.invoke("JobsFunction", {"job": "expire_holds"})
        assert not is_raised(name, gateway.aws.metrics)
        await PROVOKED[name](gateway)
        await until(lambda: is_raised(name, gateway.aws.metrics))


async def test_a_lost_charge_raises_its_alarm(
    gateway: InProcess, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gateway.settlements.RETRY_S", (0.0,))
    gateway.line.failing.add("settle")
    await gateway.ask()
    metrics = Metrics()

    def told() -> bool:
        for line in capfd.readouterr().out.splitlines():
            metrics.take(line)
        return is_raised("SettlementsLost", metrics)

    await until(told)
    await gateway.expire()


async def test_a_usage_that_cannot_be_raises_its_alarm(
    gateway: InProcess, upstream: Upstream, capfd: pytest.CaptureFixture[str]
):
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(answer(usage={"prompt_tokens": 10, "completion_tokens": 9_000_000})))
    await gateway.ask(model=GPT, max_tokens=5)
    metrics = Metrics()
    for line in capfd.readouterr().out.splitlines():
        metrics.take(line)
    assert is_raised("UsageNotBelieved", metrics)


def test_what_is_looked_at_is_what_is_measured():
    """Alarms and the dashboard name our metrics by the names that we know."""
    body = STACK._sub(
        of_type(deployed(whole=True), "AWS::CloudWatch::Dashboard")["Dashboard"]["DashboardBody"]["Fn::Sub"]
    )
    shown = [metric for widget in json.loads(body)["widgets"] for metric in widget["properties"]["metrics"]]
    named = {metric[1] for metric in shown if metric[0] == telemetry.NAMESPACE}
    named |= {alarm["MetricName"] for alarm in ALARMS.values() if alarm.get("Namespace") == telemetry.NAMESPACE}
    assert named | {"AttemptsFailed"} == telemetry.UNITS.keys()
    assert "AttemptsFailed" in body


def test_every_alarm_has_a_runbook_and_tells_somebody():
    for alarm in ALARMS.values():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": "Alarms"}]
        assert "docs/operate.md#" in alarm["AlarmDescription"]


def test_the_budget_tells_before_it_is_spent():
    (budget,) = of_type(deployed(whole=True), "AWS::Budgets::Budget").values()
    kinds = {each["Notification"]["NotificationType"]: each for each in budget["NotificationsWithSubscribers"]}
    assert kinds["ACTUAL"]["Notification"]["Threshold"] < 100
    assert kinds["FORECASTED"]["Notification"]["Threshold"] == 100
    assert of_type(deployed(whole=False), "AWS::Budgets::Budget") == {}
