"""What becomes of running requests when the process is told to stop: each is answered to its end, and settled."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import pytest

from tests.container.process import InContainer, in_container, started
from tests.harness.gateway import (
    DONE,
    GPT,
    HELLO,
    NOBODY,
    delta,
    eventually,
    finish,
    listening,
    provider,
    usage,
    with_password,
)
from tests.runtime.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from local.postgres import Server
    from tests.harness.gateway import Told
    from tests.harness.postgres import Database

pytestmark = pytest.mark.process

STREAMS = 40
REQUESTS = 200
CLIENTS = 25


class Patient:
    """A provider that sends a token and goes on when it is told to."""

    def __init__(self) -> None:
        self.asked = 0
        self.go_on = asyncio.Event()

    async def __call__(self, _scope: Any, _receive: Any, send: Any) -> None:
        self.asked += 1
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": delta("One"), "more_body": True})
        await self.go_on.wait()
        rest = b"".join([delta(" two"), finish(), usage(), DONE])
        await send({"type": "http.response.body", "body": rest})


@pytest.fixture
async def patient() -> Patient:
    return Patient()


@pytest.fixture
async def container(database: Database, patient: Patient) -> AsyncIterator[InContainer]:
    """A gateway in a process, whose one provider is the patient one."""
    async with listening(patient) as url, in_container(database, **provider("openrouter", url)) as running:
        yield running


@asynccontextmanager
async def streams(container: InContainer, patient: Patient, count: int) -> AsyncIterator[list[asyncio.Task[Told]]]:
    """Streams that have begun, and go on when the provider does."""
    await container.books.execute("update gateway.plans set concurrency = null, requests_per_minute = null")
    asked = [asyncio.create_task(container.stream(model=GPT)) for _ in range(count)]
    await until(lambda: patient.asked == count)
    yield asked
    await asyncio.gather(*asked)


async def test_no_stream_is_cut_and_every_hold_settles(container: InContainer, patient: Patient):
    slow = asyncio.create_task(container.stream(model="sandbox/slow"))
    async with streams(container, patient, STREAMS) as asked:
        container.process.signal(signal.SIGTERM)
        await container.refuses()
        for again in (signal.SIGTERM, signal.SIGINT, signal.SIGINT):
            container.process.signal(again)
        assert (await slow).done  # a while later
        assert container.process.running
        patient.go_on.set()
    assert [(told.status, told.text, told.done) for told in map(asyncio.Task.result, asked)] == [
        (200, "One two", True)
    ] * STREAMS
    assert await container.process.ended() == 0
    assert await container.holds() == ["settled"] * (STREAMS + 1)
    assert {used["outcome"] for used in await container.usage()} == {"completed"}
    assert await container.held() == 0


async def test_a_client_that_left_is_settled_before_the_end(container: InContainer, patient: Patient):
    async with container.books.transaction():
        await container.books.execute("lock table gateway.usage_records in exclusive mode")
        async with container.reading(model=GPT) as chunks:
            assert b"One" in await anext(chunks)
        await eventually(lambda: settling(container))
        container.process.signal(signal.SIGTERM)
        await container.refuses()
        assert container.process.running
        assert await container.holds() == ["held"]
    assert await container.process.ended() == 0
    (used,) = await container.usage()
    assert (await container.holds(), used["outcome"]) == (["settled"], "cancelled")
    assert not patient.go_on.is_set()


async def settling(container: InContainer) -> list[Any]:
    """The server's processes that book a settlement."""
    query = "select pid from pg_stat_activity where datname = current_database() and query like 'select api.settle(%'"
    await container.books.execute("select pg_stat_clear_snapshot()")
    return await container.rows(f"{query} and state = 'active'")


@asynccontextmanager
async def away(container: InContainer, server: Server) -> AsyncIterator[None]:
    """The database takes no connection of the gateway's, and has closed those it had."""
    name = await container.books.fetchval("select current_database()")
    operator = await asyncpg.connect(server.url())
    try:
        await operator.execute(f"alter database {name} allow_connections false")
        await container.books.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where datname = current_database() and usename = 'gateway'"
        )
        yield
        await operator.execute(f"alter database {name} allow_connections true")
    finally:
        await operator.close()


async def test_what_the_database_could_not_settle_is_settled_before_the_end(
    container: InContainer, patient: Patient, server: Server
):
    async with streams(container, patient, 3) as asked:
        container.process.signal(signal.SIGTERM)
        await container.refuses()
        async with away(container, server):
            patient.go_on.set()
            assert all(told.done for told in await asyncio.gather(*asked))
            await container.process.logged("settlement_delayed")
            assert await container.holds() == ["held"] * 3
            assert container.process.running
    assert await container.process.ended() == 0
    assert await container.holds() == ["settled"] * 3
    assert len(await container.usage()) == 3


class Crowd:
    """Clients that ask until they are refused; what each request came to."""

    def __init__(self, container: InContainer) -> None:
        self.answered = self.unanswered = 0
        self._container = container

    async def ask(self, *, keep: bool) -> None:
        """Ask until the gateway is gone. Raises what httpx does for an answer that is cut."""
        limits = httpx.Limits(max_keepalive_connections=None if keep else 0)
        headers, url = self._container.headers(), self._container.url
        async with httpx.AsyncClient(
            base_url=url, headers=headers, limits=limits, timeout=60, trust_env=False
        ) as client:
            while True:
                body = {"model": "sandbox/chat", "messages": HELLO, "stream": self.answered % 2 == 0}
                try:
                    # what fails here has had no byte of an answer
                    request = client.build_request("POST", "/v1/chat/completions", json=body)
                    response = await client.send(request, stream=True)
                except httpx.TransportError:
                    self.unanswered += 1
                    return
                whole = await response.aread()
                assert (response.status_code, b"[DONE]" in whole or whole.endswith(b"}")) == (200, True)
                self.answered += 1


@pytest.mark.parametrize("keep", [True, False], ids=["kept connections", "a connection each"])
async def test_under_load_a_request_is_answered_whole_or_was_never_taken(database: Database, *, keep: bool):
    async with in_container(database) as container:
        await container.books.execute("update gateway.plans set concurrency = null, requests_per_minute = null")
        crowd = Crowd(container)
        clients = [asyncio.create_task(crowd.ask(keep=keep)) for _ in range(CLIENTS)]
        await until(lambda: crowd.answered >= REQUESTS)
        container.process.signal(signal.SIGTERM)
        await asyncio.gather(*clients)
        assert await container.process.ended() == 0
        assert await container.holds() == ["settled"] * crowd.answered
        assert (crowd.unanswered, container.process.events("request_failed")) == (CLIENTS, [])
        assert container.process.errors == ""


CLIENT = "203.0.113.9"


@pytest.mark.parametrize(
    ("believed", "forwarded", "status"),
    [
        (None, CLIENT, 403),
        ("127.0.0.1", CLIENT, 200),
        ("10.0.0.0/8, 127.0.0.0/8", f"198.51.100.1, {CLIENT}, 10.1.2.3", 200),
        ("127.0.0.1", f"{CLIENT}, 198.51.100.1", 403),
        ("10.0.0.0/8", CLIENT, 403),
    ],
    ids=["nobody", "the proxy", "two proxies", "what the client wrote", "another proxy"],
)
async def test_who_a_client_is(database: Database, believed: str | None, forwarded: str, status: int):
    told = {} if believed is None else {"FORWARDED_ALLOW_IPS": believed}
    async with in_container(database, **told) as container:
        await container.books.execute("update gateway.api_keys set ip_allowlist = array[$1::text::cidr]", CLIENT)
        response = await container.ask({"x-forwarded-for": forwarded})
        assert response.status_code == status


async def test_nobody_can_be_told_to_believe_everybody(database: Database):
    async with started(DATABASE_URL=with_password(database.service), FORWARDED_ALLOW_IPS="*") as process:
        assert await process.ended() == 1
    assert "name the proxies" in process.errors


async def test_a_port_that_is_taken_is_said():
    async with listening(Patient()) as url, started(DATABASE_URL=NOBODY, PORT=url.rpartition(":")[2]) as process:
        assert await process.ended() == 1
    assert "Address already in use" in process.errors
