"""A provider on loopback: real HTTP, answered byte by byte as a test says, faults included."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import deque
from contextlib import asynccontextmanager, suppress
from enum import Enum
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

DEADLINE_S = 10.0


class Fault(Enum):
    """What can happen to a connection instead of more bytes."""

    STALL = "nothing more comes until the client leaves"
    CLOSE = "the connection is closed"
    RESET = "the connection is reset"


type Step = bytes | float | Fault
"""Bytes to send, seconds to wait, or a fault, which ends the connection."""

type Reply = tuple[Step, ...]
"""All that goes over the wire for one request, status line included; without a fault the connection stays open."""


class Request(msgspec.Struct, frozen=True):
    """What a client asked; header names in lower case."""

    connection: int
    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)


def head(status: int = 200, /, **headers: str) -> bytes:
    """A status line and headers; `content_type` stands for `content-type`."""
    lines = [f"HTTP/1.1 {status} Recorded", *(f"{name.replace('_', '-')}: {text}" for name, text in headers.items())]
    return "\r\n".join([*lines, "", ""]).encode()


def whole(body: bytes, status: int = 200, **headers: str) -> Reply:
    """A reply in one piece, JSON unless its headers say otherwise."""
    return head(status, **{"content_type": "application/json", **headers, "content_length": str(len(body))}), body


def streamed(*pieces: Step, **headers: str) -> Reply:
    """A chunked event stream of these pieces; it ends properly unless a fault ends it."""
    start = head(**{"content_type": "text/event-stream", **headers, "transfer_encoding": "chunked"})
    steps = [b"%x\r\n%s\r\n" % (len(piece), piece) if isinstance(piece, bytes) else piece for piece in pieces]
    ends = () if any(isinstance(piece, Fault) for piece in pieces) else (b"0\r\n\r\n",)
    return start, *steps, *ends


def until_closed(*pieces: Step, status: int = 200, **headers: str) -> Reply:
    """A reply without a length: it ends where the connection is closed, as a cut one does."""
    return head(status, connection="close", **headers), *pieces, Fault.CLOSE


class Upstream:
    """The double. `will` says what it answers; `requests` is what it was asked."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.connections = 0
        self.url = ""
        self._replies: deque[Reply] = deque()
        self._open: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()

    def will(self, *replies: Reply) -> None:
        """Answer the next requests with these, and all after them with the last."""
        self._replies = deque(replies)

    async def drop_connections(self) -> None:
        """Close every connection that is open; returns when they are."""
        for writer in list(self._writers):
            writer.close()
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*self._open, return_exceptions=True)

    async def idle(self) -> None:
        """Wait until every client has left."""
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*self._open, return_exceptions=True)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Upstream]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        try:
            yield self
        finally:
            server.close()
            for connection in self._open:
                connection.cancel()
            await asyncio.gather(*self._open, return_exceptions=True)
            await server.wait_closed()

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        connection = asyncio.create_task(self._serve(reader, writer, self.connections))
        self._open.add(connection)
        connection.add_done_callback(self._open.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> None:
        self._writers.add(writer)
        try:
            with suppress(OSError, asyncio.IncompleteReadError):
                while await self._answer(reader, writer, number):
                    pass
        finally:
            self._writers.discard(writer)
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, number: int) -> bool:
        """Take one request and answer it; whether the connection stays open."""
        self.requests.append(await _request(reader, number))
        reply = self._replies.popleft() if len(self._replies) > 1 else self._replies[0]
        for step in reply:
            match step:
                case bytes():
                    writer.write(step)
                    await writer.drain()
                case float():
                    await asyncio.sleep(step)
                case Fault.STALL:
                    await reader.read()
                    return False
                case Fault.RESET:
                    _reset(writer)
                    return False
                case Fault.CLOSE:
                    return False
        return True


async def _request(reader: asyncio.StreamReader, number: int) -> Request:
    first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    method, path, _ = first.split(" ")
    headers = {name.lower(): text.strip() for name, _, text in (line.partition(":") for line in lines if line)}
    return Request(number, method, path, headers, await reader.readexactly(int(headers.get("content-length", "0"))))


def _reset(writer: asyncio.StreamWriter) -> None:
    """Without lingering, closing a socket resets its connection."""
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def dripped(body: bytes) -> Iterator[bytes]:
    """A body a byte at a time."""
    return (body[at : at + 1] for at in range(len(body)))


@pytest.fixture
async def upstream() -> AsyncIterator[Upstream]:
    """A provider on loopback, to be told what it answers."""
    async with Upstream().open() as double:
        yield double
