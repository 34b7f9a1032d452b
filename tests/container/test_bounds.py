"""What a connection may take before its request is whole: each bound of container.bounds, on a socket."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from container import bounds
from container.bounds import BoundedProtocol
from gateway.http.edge import Edge
from tests.harness.gateway import eventually, listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SOON_S = 0.05
HEAD = b"POST /x HTTP/1.1\r\nHost: h\r\n"
WHOLE = b"GET /x HTTP/1.1\r\nHost: h\r\n\r\n"


class Echo:
    """An app that answers with the body's length, when it may."""

    def __init__(self) -> None:
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        self.clients: list[Any] = []
        self.asked = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        self.asked += 1
        self.clients.append(scope["client"][0])
        size, more = 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            size += len(message["body"])
            more = message["more_body"]
        await self.may_answer.wait()
        body = str(size).encode()
        headers = [(b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


class Wire:
    """A client's end of a connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self._writer = reader, writer

    def send(self, data: bytes) -> None:
        self._writer.write(data)

    async def rest(self) -> bytes:
        """What comes until the server closes."""
        try:
            return await asyncio.wait_for(self.reader.read(), 20)
        except ConnectionResetError:
            return b""

    async def answer(self) -> bytes:
        """The next answer of Echo."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        return head + await self.reader.readexactly(length)

    def close(self) -> None:
        self._writer.close()


class Port:
    """A server with these bounds, and what it serves."""

    def __init__(self, url: str, app: Echo) -> None:
        self.app, self._address = app, urlsplit(url)
        self._wires: list[Wire] = []

    async def connect(self) -> Wire:
        wire = Wire(*await asyncio.open_connection(self._address.hostname, self._address.port))
        self._wires.append(wire)
        return wire

    def close(self) -> None:
        for wire in self._wires:
            wire.close()


@pytest.fixture
async def port() -> AsyncIterator[Port]:
    async with serving() as running:
        yield running


@asynccontextmanager
async def serving() -> AsyncIterator[Port]:
    app = Echo()
    BoundedProtocol.waiting.clear()
    async with listening(Edge(app, []), BoundedProtocol) as url:
        running = Port(url, app)
        yield running
        app.may_answer.set()
        running.close()


def refused(answer: bytes) -> tuple[int, str]:
    """The status and the code of a refusal, whose form must be every refusal's."""
    head, _, body = answer.partition(b"\r\n\r\n")
    told = json.loads(body)
    for name in (b"connection: close", b"x-request-id: ", b"x-content-type-options: nosniff"):
        assert name in head
    assert int(head.split()[1]) == told["status_code"]
    return told["status_code"], told["error"]["code"]


async def test_what_is_within_the_bounds_is_served(port: Port):
    wire = await port.connect()
    for size in (0, 5, 1 << 20):
        wire.send(HEAD + b"Content-Length: %d\r\n\r\n" % size + b"x" * size)
        assert (await wire.answer()).endswith(b"\r\n\r\n%d" % size)
    wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n")
    assert (await wire.answer()).endswith(b"\r\n\r\n100000")
    assert port.app.clients == ["127.0.0.1"] * 4


@pytest.mark.parametrize("sent", [b"", b"\r\n", b"GET / HT", HEAD, HEAD + b"X: y"])
async def test_a_head_that_does_not_come_is_not_waited_for(port: Port, monkeypatch: pytest.MonkeyPatch, sent: bytes):
    monkeypatch.setattr(bounds, "HEAD_S", SOON_S)
    wire = await port.connect()
    wire.send(sent)
    told = await wire.rest()
    assert refused(told) == (408, "request_timeout") if sent else told == b""
    assert port.app.asked == 0


@pytest.mark.parametrize("sent", [b"\r\n", b"GET / HT"])
async def test_nor_is_the_next_one(port: Port, monkeypatch: pytest.MonkeyPatch, sent: bytes):
    wire = await port.connect()
    wire.send(WHOLE)
    await wire.answer()
    monkeypatch.setattr(bounds, "HEAD_S", SOON_S)
    wire.send(sent)
    assert refused(await wire.rest()) == (408, "request_timeout")


@pytest.mark.parametrize("framing", [b"Content-Length: 9\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n5\r\n"])
async def test_a_body_that_does_not_come_is_not_waited_for(port: Port, monkeypatch: pytest.MonkeyPatch, framing: bytes):
    monkeypatch.setattr(bounds, "BODY_S", SOON_S)
    wire = await port.connect()
    wire.send(HEAD + framing + b"x")
    assert refused(await wire.rest()) == (408, "request_timeout")
    assert port.app.asked == 1


async def test_an_answer_that_takes_its_time_is_not_cut(port: Port, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounds, "HEAD_S", SOON_S)
    port.app.may_answer.clear()
    wire, idle = await port.connect(), await port.connect()
    wire.send(WHOLE + b"GET /")  # of a second request the beginning, which must wait for its turn
    assert await idle.rest() == b""  # the deadline is over
    assert await idle_again(port) == b""
    port.app.may_answer.set()
    assert (await wire.answer()).endswith(b"\r\n\r\n0")
    assert refused(await wire.rest()) == (408, "request_timeout")


async def idle_again(port: Port) -> bytes:
    return await (await port.connect()).rest()


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"x" * (1 << 17),
        HEAD + b"X: " + b"y" * (1 << 17),
        HEAD + b"X: " + b"y" * 70_000 + b"\r\n\r\n",
        HEAD + b"".join(b"X-%d: %s\r\n" % (number, b"y" * 1000) for number in range(150)),
        HEAD + b"X: y\r\n" * 201,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n" + b"X: y\r\n" * 201,
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX: " + b"y" * (1 << 19),
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"y" * (1 << 19),
    ],
    ids=["address", "line", "whole line", "lines", "many lines", "many trailers", "trailer", "a chunk's extension"],
)
async def test_a_head_has_a_size(port: Port, head: bytes):
    wire = await port.connect()
    wire.send(head)
    told = await wire.rest()
    # what a server has not read when it closes may take its answer from the client
    assert told == b"" or refused(told) == (400, "invalid_request_error")
    assert not BoundedProtocol.waiting


async def test_what_is_not_http_is_refused_like_everything(port: Port):
    wire = await port.connect()
    wire.send(b"\x16\x03\x01 hello\r\n\r\n")
    assert refused(await wire.rest()) == (400, "invalid_request_error")


async def test_few_requests_wait_on_a_connection(port: Port):
    port.app.may_answer.clear()
    wire = await port.connect()
    wire.send(WHOLE * (bounds.MAX_PIPELINED + 2))
    assert await wire.rest() == b""
    assert port.app.asked == 1
    port.app.may_answer.set()
    within = await port.connect()
    within.send(WHOLE * (bounds.MAX_PIPELINED + 1))
    for _ in range(bounds.MAX_PIPELINED + 1):
        assert (await within.answer()).endswith(b"\r\n\r\n0")


async def test_who_has_sent_no_whole_request_for_longest_gives_way(port: Port, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounds, "MAX_CONNECTIONS", 3)
    half, kept, idle = [await port.connect() for _ in range(3)]
    half.send(HEAD + b"Content-Length: 9\r\n\r\nx")
    kept.send(WHOLE)
    await kept.answer()
    for served in range(3):
        wire = await port.connect()
        wire.send(WHOLE)
        assert (await wire.answer()).endswith(b"\r\n\r\n0")
        if served == 0:
            assert refused(await half.rest()) == (503, "overloaded")
    assert await idle.rest() == b""
    assert await kept.rest() == b""


async def test_who_is_being_answered_does_not(port: Port, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounds, "MAX_CONNECTIONS", 3)
    port.app.may_answer.clear()
    served = [await port.connect() for _ in range(3)]
    for wire in served:
        wire.send(WHOLE)
    await eventually(lambda: asyncio.sleep(0, port.app.asked == len(served)))
    assert refused(await (await port.connect()).rest()) == (503, "overloaded")
    port.app.may_answer.set()
    for wire in served:
        assert (await wire.answer()).endswith(b"\r\n\r\n0")


async def test_a_reader_that_stops_is_cut_although_bytes_wait_for_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bounds, "READER_S", SOON_S)
    is_cut = asyncio.Event()

    async def endless(_scope: Any, receive: Any, send: Any) -> None:
        await receive()
        leaving = asyncio.ensure_future(receive())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while not leaving.done():
            await send({"type": "http.response.body", "body": bytes(1 << 20), "more_body": True})
            await asyncio.sleep(0)
        is_cut.set()

    async with listening(endless, BoundedProtocol) as url:
        _, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port, limit=1024)
        writer.write(WHOLE)
        await asyncio.wait_for(is_cut.wait(), 20)
        writer.transport.abort()
