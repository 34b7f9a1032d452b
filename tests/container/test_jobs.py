"""The schedules in a container: fired at the start and again, whatever a job comes to, and brought to their end."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from container.jobs import FUNCTION, TEMPLATE, Jobs
from gateway import database as door
from jobs.handler import JOBS
from local.template import Schedule, load
from tests.container.process import Process, started
from tests.harness.builders import Connection, a_caller, a_request
from tests.harness.gateway import NOBODY, Line, eventually, provider, serving, with_password
from tests.runtime.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from local.stripe import Stripe
    from tests.harness.postgres import Database

pytestmark = pytest.mark.process

SWEEP = Schedule("Sweep", "rate(1 minute)", FUNCTION, '{"job": "expire_holds"}')


@asynccontextmanager
async def jobs_with(address: str, **environment: str) -> AsyncIterator[Process]:
    """The program of the jobs, which has started its schedules; it can read no price list."""
    nowhere = provider("openrouter", "http://127.0.0.1:1") | provider("chutes", "http://127.0.0.1:1")
    async with started(
        sys.executable, "-m", "container.jobs", DATABASE_URL=address, **nowhere, **environment
    ) as process:
        await process.logged("schedules_started")
        yield process


@pytest.fixture
async def line(database: Database) -> AsyncIterator[Line]:
    """This process's line to the test's database."""
    opened = Line(database)
    door.use(opened)
    yield opened
    await door.close()


@asynccontextmanager
async def locked(operator: Connection) -> AsyncIterator[None]:
    """No hold can be ended while the block runs."""
    async with operator.transaction():
        await operator.execute("lock table gateway.credit_holds in exclusive mode")
        yield


async def overdue(operator: Connection) -> None:
    """A hold whose time is over."""
    chatting = serving.set("chat")
    await door.call("authorize", **a_request(await a_caller(operator)))
    serving.reset(chatting)
    await operator.execute("update gateway.credit_holds set expires_at = now()")


async def states(operator: Connection) -> list[str]:
    return [row["state"] for row in await operator.fetch("select state from gateway.credit_holds")]


def test_the_schedules_are_the_templates():
    schedules = load(TEMPLATE, "").schedules
    assert {json.loads(schedule.input)["job"] for schedule in schedules} == set(JOBS)
    assert {schedule.function for schedule in schedules} == {FUNCTION}


@pytest.mark.usefixtures("line")
async def test_each_job_is_done_at_the_start(database: Database, operator: Connection, stripe: Stripe):
    await overdue(operator)
    async with jobs_with(with_password(database.service), **stripe.settings()) as process:

        async def all_done() -> bool:
            return {line["job"] for line in process.events("job_done")} == set(JOBS)

        await eventually(all_done)
        assert process.events("job_failed") == []
        assert await states(operator) == ["expired"]
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
    assert process.errors == ""


async def test_jobs_that_fail_end_nothing():
    async with jobs_with(NOBODY, STRIPE_SECRET_KEY="sk_test_only", STRIPE_BASE_URL="http://127.0.0.1:1") as process:

        async def all_failed() -> bool:
            return {line["job"] for line in process.events("job_failed")} == set(JOBS)

        await eventually(all_failed)
        assert {line["error"] for line in process.events("job_failed")} == {"DatabaseUnavailable"}
        assert process.running
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0


async def test_the_job_that_runs_is_finished_before_the_end(database: Database, operator: Connection, line: Line):
    await overdue(operator)
    async with jobs_with(with_password(database.service)) as process:
        async with locked(operator):
            await eventually(lambda: sweeping(operator))
            process.signal(signal.SIGTERM)
            assert await states(operator) == ["held"]
        assert await process.ended() == 0
    assert await states(operator) == ["expired"]
    assert "expire_holds" in {line["job"] for line in process.events("job_done")}
    assert line.calls


async def sweeping(operator: Connection) -> list[Any]:
    """The server's processes that wait for a hold to end."""
    await operator.execute("select pg_stat_clear_snapshot()")
    query = (
        "select pid from pg_stat_activity where datname = current_database() and query like 'select api.expire_hold%'"
    )
    return await operator.fetch(f"{query} and wait_event_type = 'Lock'")


async def test_a_schedule_goes_on_after_a_failure(operator: Connection, line: Line):
    await overdue(operator)
    line.cut = {"expire_holds"}
    schedule = asyncio.create_task(Jobs(10).every(0.01, SWEEP))
    await until(lambda: line.calls.count("expire_holds") > 2)
    assert await states(operator) == ["held"]
    line.cut.clear()

    async def swept() -> bool:
        return await states(operator) == ["expired"]

    await eventually(swept)
    schedule.cancel()


@pytest.mark.usefixtures("line")
async def test_a_job_has_no_longer_than_the_jobs_function(operator: Connection, capsys: pytest.CaptureFixture[str]):
    await overdue(operator)
    async with locked(operator):
        await Jobs(0.1).fire(FUNCTION, {"job": "expire_holds"})
    (failed,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (failed["event"], failed["error"], failed["job"]) == ("job_failed", "TimeoutError", "expire_holds")
