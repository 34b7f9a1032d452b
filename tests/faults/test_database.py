"""A database that is away: at admission nothing is served, after an answer nothing is lost and nothing counts twice."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest

from gateway import settings, settlements
from local.sqs import Sqs
from local.template import Queue
from local.wire import Server
from tests.harness.gateway import DONE, GPT, InProcess, answer, delta, eventually, finish, usage
from tests.harness.upstream import Upstream, streamed, whole
from tests.runtime.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from local.sqs import MessageQueue

pytestmark = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
COST_NANO = 10 * 150 + 5 * 600


@pytest.fixture
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is no queue, the ledger is tried again at once."""
    monkeypatch.setattr(settlements, "RETRY_S", (0.01,))


@pytest.fixture
async def asked(gateway: InProcess, upstream: Upstream, *, stream: bool) -> Upstream:
    """The one provider, which answers."""
    gateway.connect("openrouter", upstream.url)
    good = delta("Hello"), finish(), usage(), DONE
    upstream.will(streamed(*good) if stream else whole(answer("Hello")))
    return upstream


@asynccontextmanager
async def queue(folder: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[MessageQueue]:
    """The queue that settlements go to, at an SQS on loopback."""
    sqs = Sqs([Queue("settlements", 30)], folder, _nobody, lambda *_: None)
    server = Server(sqs.handle)
    address = f"http://{await server.start()}"
    configured = msgspec.structs.replace(
        settings.settings,
        settlement_queue_url=f"{address}/000000000000/settlements",
        aws=msgspec.structs.replace(settings.settings.aws, region="us-east-1", endpoints={"sqs": address}),
    )
    monkeypatch.setattr(settlements, "settings", configured)
    try:
        yield sqs.queues["settlements"]
    finally:
        await server.stop()


async def _nobody(_function: str, _event: object) -> None:
    raise AssertionError("nothing subscribes to this queue")


async def test_away_at_admission_nothing_is_served(gateway: InProcess, asked: Upstream, *, stream: bool):
    before = await gateway.tables()
    gateway.line.cut = {"authorize"}
    response = await gateway.ask(model=GPT, stream=stream)
    assert (response.status_code, response.json()["error"]["code"]) == (503, "database_unavailable")
    assert response.json()["error"]["metadata"]["retryable"] is True
    assert asked.requests == []
    assert await gateway.tables() == before


async def test_limits_that_cannot_be_evaluated_serve_nothing(gateway: InProcess, asked: Upstream, *, stream: bool):
    await gateway.books.execute("delete from gateway.plans")
    before = await gateway.tables()
    response = await gateway.ask(model=GPT, stream=stream)
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert asked.requests == []
    assert await gateway.tables() == before


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("name", ["authorize", "settle"])
async def test_an_answer_of_the_database_that_is_lost(gateway: InProcess, name: str, *, stream: bool):
    before = await gateway.balance()
    gateway.line.deaf = {name}
    response = await gateway.ask(model=GPT, stream=stream)
    assert response.status_code == 200
    assert await gateway.ended() == ["settled"]
    await until(lambda: gateway.line.calls.count(name) == 2)
    assert await gateway.balance() == before - COST_NANO
    assert len(await gateway.usage()) == 1


@pytest.mark.usefixtures("asked", "soon")
async def test_away_at_settlement_without_a_queue_it_is_tried_until_it_is_back(gateway: InProcess, *, stream: bool):
    before = await gateway.balance()
    gateway.line.cut = {"settle"}
    response = await gateway.ask(model=GPT, stream=stream)
    assert "Hello" in response.text
    await until(lambda: gateway.line.calls.count("settle") > 3)
    assert (await gateway.holds(), await gateway.usage()) == (["held"], [])
    gateway.line.cut.clear()
    assert await gateway.ended() == ["settled"]
    assert await gateway.balance() == before - COST_NANO
    assert len(await gateway.usage()) == 1


@pytest.mark.usefixtures("asked")
@pytest.mark.parametrize("late", [False, True], ids=["in time", "after the hold's time"])
async def test_away_at_settlement_it_is_queued_and_counts_once(
    gateway: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stream: bool, late: bool
):
    before = await gateway.balance()
    async with queue(tmp_path, monkeypatch) as messages:
        gateway.line.cut = {"settle"}
        headers = {"idempotency-key": "once"}
        response = await gateway.ask(headers, model=GPT, stream=stream)
        assert "Hello" in response.text
        await until(lambda: len(messages))
    assert await gateway.usage() == []
    gateway.line.cut.clear()
    if late:
        await gateway.expire()
        assert await gateway.holds() == ["expired"]
    (message,) = messages.receive(10)
    for _ in range(2):
        await settlements.book(settlements.received(message.body))
        assert await gateway.holds() == ["settled"]
        assert await gateway.balance() == before - COST_NANO
        assert len(await gateway.usage()) == 1
    if not late:
        again = await gateway.ask(headers, model=GPT, stream=stream)
        assert again.headers["x-idempotent-replay"] == "true"


@pytest.mark.usefixtures("asked")
async def test_a_settlement_that_the_database_fails_at_is_queued_too(
    gateway: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stream: bool
):
    before = await gateway.balance()
    async with queue(tmp_path, monkeypatch) as messages:
        gateway.line.failing = {"settle"}
        assert "Hello" in (await gateway.ask(model=GPT, stream=stream)).text
        await until(lambda: len(messages))
    gateway.line.failing.clear()
    (message,) = messages.receive(10)
    await settlements.book(settlements.received(message.body))
    assert await gateway.balance() == before - COST_NANO


@pytest.mark.usefixtures("asked", "soon")
async def test_the_queue_may_be_away_too(
    gateway: InProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, stream: bool
):
    async with queue(tmp_path, monkeypatch):
        pass
    gateway.line.cut = {"settle"}
    response = await gateway.ask(model=GPT, stream=stream)
    assert response.status_code == 200
    await until(lambda: gateway.line.calls.count("settle") > 1)
    gateway.line.cut.clear()
    assert await gateway.ended() == ["settled"]


async def test_away_when_nothing_came_of_a_request_its_time_gives_the_hold_back(
    gateway: InProcess, asked: Upstream, *, stream: bool
):
    before = await gateway.balance()
    asked.will(whole(b"", 500))
    gateway.line.cut = {"release"}
    response = await gateway.ask(model=GPT, stream=stream)
    assert (response.status_code, response.json()["error"]["code"]) == (502, "provider_error")
    assert await gateway.holds() == ["held"]
    await gateway.expire()
    assert (await gateway.holds(), await gateway.balance(), await gateway.held()) == (["expired"], before, 0)


@pytest.mark.usefixtures("asked")
async def test_a_request_waits_for_its_turn_in_the_database(gateway: InProcess, *, stream: bool):
    await gateway.ask(model=GPT, stream=stream)
    async with gateway.books.transaction():
        await gateway.books.execute("lock table gateway.credit_holds in exclusive mode")
        asking = asyncio.create_task(gateway.ask(model=GPT, stream=stream))
        await eventually(lambda: waiting(gateway))
    assert (await asking).status_code == 200
    await gateway.ended(2)


async def waiting(gateway: InProcess) -> int:
    await gateway.books.execute("select pg_stat_clear_snapshot()")
    query = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
    return int(await gateway.books.fetchval(query))
