"""A closed-loop load client that understands OpenAI's answers: JSON and server-sent events over HTTP/1.1.

Each of its connections sends the next request when the last answer is complete. Every time it gives is in
microseconds.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast

STAMP = re.compile(rb"@(\d{6,})")
LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
CHUNKED = re.compile(rb"\r\ntransfer-encoding:\s*chunked", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Work:
    """One kind of load: how many requests over how many connections, and for how many seconds at most.

    With `chunks` an answer is streamed, one chunk each `interval` microseconds; else it is JSON of 16 words.
    """

    requests: int
    connections: int
    chunks: int = 0
    interval: int = 0
    seconds: float = 20.0

    @property
    def directive(self) -> str:
        """What steers the upstream (see upstream.py)."""
        return f"n={self.chunks};d={self.interval}" if self.chunks else "w=16"


@dataclass(slots=True)
class Outcome:
    """What came back. Times are in microseconds, one entry per answer (`late`: per chunk)."""

    answers: int = 0
    chunks: int = 0
    seconds: float = 0.0
    errors: Counter[str] = field(default_factory=Counter)
    latency: list[float] = field(default_factory=list)
    first: list[float] = field(default_factory=list)
    late: list[float] = field(default_factory=list)


def content(work: Work) -> bytes:
    """The body of one chat completion request."""
    body: dict[str, Any] = {
        "model": "bench/model",
        "messages": [
            {"role": "system", "content": "You are a helpful assistant."},
            {"role": "user", "content": f"Say something short. bench:{work.directive}"},
        ],
        "max_tokens": 512,
    }
    if work.chunks:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return json.dumps(body).encode()


def request(port: int, key: str, work: Work) -> bytes:
    """The bytes of one chat completion request."""
    body = content(work)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\n"
        f"Content-Type: application/json\r\nAccept: */*\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


class Answer:
    """One answer as it arrives: a head, then a body of known length, or HTTP chunks of events with stamps."""

    def __init__(self, outcome: Outcome, sent_ns: int) -> None:
        self.outcome, self.sent_ns = outcome, sent_ns
        self.buffer = bytearray()
        self.status = 0
        self.left: int | None = None
        self.line = b""
        self.chunks = 0
        self.done = False

    def feed(self, data: bytes) -> bool:
        """Take what was read; whether the answer is complete."""
        self.buffer += data
        if not self.status and not self.read_head():
            return False
        if self.left is None:
            return self.read_chunks(time.monotonic_ns())
        return len(self.buffer) >= self.left

    def read_head(self) -> bool:
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return False
        head = bytes(self.buffer[: end + 2])
        del self.buffer[: end + 4]
        self.status = int(head[9:12])
        if not CHUNKED.search(head):
            length = LENGTH.search(head)
            self.left = int(length[1]) if length else 0
        return True

    def read_chunks(self, now: int) -> bool:
        at, last = 0, False
        while not last and (end := self.buffer.find(b"\r\n", at)) >= 0:
            size = int(self.buffer[at:end].partition(b";")[0], 16)
            after = end + 2 + size + 2
            if len(self.buffer) < after:
                break
            self.read_events(bytes(self.buffer[end + 2 : after - 2]), now)
            at, last = after, size == 0
        del self.buffer[:at]
        return last

    def read_events(self, text: bytes, now: int) -> None:
        *lines, self.line = (self.line + text).split(b"\n")
        for line in lines:
            if stamp := STAMP.search(line):
                self.outcome.late.append((now - int(stamp[1])) / 1e3)
                if not self.chunks:
                    self.outcome.first.append((now - self.sent_ns) / 1e3)
                self.chunks += 1
            elif line.startswith(b"data: [DONE]"):
                self.done = True

    def fault(self, chunks: int) -> str:
        """What is wrong with this complete answer of so many chunks, or nothing."""
        if self.status != HTTPStatus.OK:
            return f"status {self.status}"
        if self.chunks != chunks:
            return f"{self.chunks} chunks of {chunks}"
        return "no [DONE]" if chunks and not self.done else ""


class Connection(asyncio.Protocol):
    """One connection of a load."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.answer: Answer | None = None
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        self.send(self.transport)

    def send(self, transport: asyncio.Transport) -> None:
        if not self.load.take():
            transport.close()
            return
        self.answer = Answer(self.load.outcome, time.monotonic_ns())
        transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        if self.answer and self.transport and self.answer.feed(data):
            answer, self.answer = self.answer, None
            self.load.count(answer)
            self.send(self.transport)

    def abandon(self) -> None:
        """Leave, whatever is still to come."""
        self.answer = None
        if self.transport:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self.answer:
            self.load.outcome.errors["connection lost"] += 1
        self.load.closed(self)


class Load:
    """One bounded run of `work` against a port of this machine."""

    def __init__(self, port: int, key: str, work: Work) -> None:
        self.port, self.work = port, work
        self.request = request(port, key, work)
        self.outcome = Outcome()
        self.to_send = work.requests
        self.connections: set[Connection] = set()
        self.finished = asyncio.Event()

    @property
    def streaming(self) -> int:
        """How many answers have begun and are not complete."""
        return sum(bool(connection.answer and connection.answer.chunks) for connection in self.connections)

    def take(self) -> bool:
        """Whether there is one more request to send; it is then counted as sent."""
        self.to_send -= 1
        return self.to_send >= 0

    def count(self, answer: Answer) -> None:
        if fault := answer.fault(self.work.chunks):
            self.outcome.errors[fault] += 1
            return
        self.outcome.answers += 1
        self.outcome.chunks += answer.chunks
        self.outcome.latency.append((time.monotonic_ns() - answer.sent_ns) / 1e3)

    def closed(self, connection: Connection) -> None:
        self.connections.discard(connection)
        if not self.connections:
            self.finished.set()

    async def connect(self) -> None:
        connection = Connection(self)
        self.connections.add(connection)
        try:
            await asyncio.get_running_loop().create_connection(lambda: connection, "127.0.0.1", self.port)
        except OSError:
            self.outcome.errors["no connection"] += 1
            self.closed(connection)

    async def run(self) -> Outcome:
        """Send every request, or as many as the time allows, and say what came back."""
        began = time.perf_counter()
        try:
            async with asyncio.timeout(self.work.seconds):
                await asyncio.gather(*(self.connect() for _ in range(self.work.connections)))
                await self.finished.wait()
        except TimeoutError:
            self.outcome.errors["out of time"] += 1
        finally:
            for connection in tuple(self.connections):
                connection.abandon()
        self.outcome.seconds = time.perf_counter() - began
        return self.outcome
