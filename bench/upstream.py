"""A fake OpenAI upstream, cheap enough to limit no gateway: asyncio on uvloop, HTTP/1.1 written by hand.

    python -m bench.upstream PORT

`POST …/chat/completions` is answered with JSON, or with server-sent events for `"stream": true`. The text of
a message, which every gateway forwards, steers the answer: `bench:KEY=NUMBER;KEY=NUMBER`

    n   content chunks of a stream (16)          w   words of a JSON answer (16)
    d   microseconds between two chunks (0)

The content of a chunk is ` @NANOSECONDS`, the CLOCK_MONOTONIC time at which it was written, so that a client
on the same machine can tell how late it came. Any GET is answered with a list of one model.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import sys
import time
from typing import TYPE_CHECKING, cast

import uvloop

if TYPE_CHECKING:
    from collections.abc import Callable

LENGTH = re.compile(rb"\r\ncontent-length:\s*(\d+)", re.IGNORECASE)
MODEL = re.compile(rb'"model"\s*:\s*"([^"\\]+)"')
STREAM = re.compile(rb'"stream"\s*:\s*true')
USAGE = re.compile(rb'"include(?:_usage)?"\s*:\s*true')
DIRECTIVES = re.compile(rb"bench:([a-z0-9=;]+)")
PROMPT_TOKENS = 11
MOST_CHUNKS = 10_000

MODELS = b'{"object":"list","data":[{"id":"bench/model","object":"model","created":1,"owned_by":"bench"}]}'
ANSWER_HEAD = b"HTTP/1.1 %b\r\nContent-Type: application/json\r\nx-request-id: req_bench\r\nContent-Length: %d\r\n\r\n"
EVENTS_HEAD = (
    b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
    b"x-request-id: req_bench\r\nTransfer-Encoding: chunked\r\n\r\n"
)

serial = itertools.count(1)


def directives(body: bytes) -> dict[bytes, int]:
    """The numbers that the message text asks for, by their letter."""
    found = DIRECTIVES.search(body)
    pairs = (pair.partition(b"=") for pair in found[1].split(b";")) if found else ()
    return {name: int(number) for name, _, number in pairs if number.isdigit()}


def plain(status: bytes, body: bytes) -> bytes:
    """A whole answer with a JSON body."""
    return ANSWER_HEAD % (status, len(body)) + body


def event(data: bytes) -> bytes:
    """One server-sent event as one HTTP chunk."""
    return b"%x\r\ndata: %b\n\n\r\n" % (len(data) + 8, data)


def usage(completion_tokens: int) -> bytes:
    """The `usage` object."""
    total = PROMPT_TOKENS + completion_tokens
    numbers = (PROMPT_TOKENS, completion_tokens, total)
    return b'{"prompt_tokens":%d,"completion_tokens":%d,"total_tokens":%d}' % numbers


def identity(kind: bytes, body: bytes) -> bytes:
    """The members that every object of one answer begins with."""
    model = MODEL.search(body)
    name = model[1] if model else b"bench/model"
    members = b'{"id":"chatcmpl-bench%d","object":"%b","created":1700000000,"model":"%b",'
    return members % (next(serial), kind, name)


def completion(body: bytes) -> bytes:
    """The JSON answer to a request that does not stream."""
    words = directives(body).get(b"w", 16)
    message = b'{"role":"assistant","content":"%b","refusal":null}' % (b"word " * words)
    choice = b'{"index":0,"message":%b,"logprobs":null,"finish_reason":"stop"}' % message
    return b'%b"choices":[%b],"usage":%b}' % (identity(b"chat.completion", body), choice, usage(words))


class Stream:
    """One streamed answer: role, pieces of content `interval` seconds apart, stop, usage, `[DONE]`."""

    def __init__(self, body: bytes, write: Callable[[bytes], object], ended: Callable[[], object]) -> None:
        asked = directives(body)
        self.chunks = min(asked.get(b"n", 16), MOST_CHUNKS)
        self.interval = asked.get(b"d", 0) / 1e6
        self.with_usage = USAGE.search(body) is not None
        self.identity = identity(b"chat.completion.chunk", body)
        self.write, self.ended = write, ended
        self.loop = asyncio.get_running_loop()
        self.timer: asyncio.TimerHandle | None = None
        self.sent = 0
        self.due = self.loop.time()

    def start(self) -> None:
        self.write(EVENTS_HEAD + self.piece(b'{"role":"assistant","content":""}'))
        self.step()

    def stop(self) -> None:
        """Write nothing more: the client has left."""
        if self.timer:
            self.timer.cancel()

    def piece(self, delta: bytes, finish: bytes = b"null") -> bytes:
        choice = b'"choices":[{"index":0,"delta":%b,"finish_reason":%b}]}' % (delta, finish)
        return event(self.identity + choice)

    def step(self) -> None:
        while self.sent < self.chunks:
            self.write(self.piece(b'{"content":" @%d"}' % time.monotonic_ns()))
            self.sent += 1
            if self.interval:
                self.due += self.interval
                self.timer = self.loop.call_at(self.due, self.step)
                return
        self.finish()

    def finish(self) -> None:
        last = self.piece(b"{}", b'"stop"')
        if self.with_usage:
            last += event(b'%b"choices":[],"usage":%b}' % (self.identity, usage(self.chunks)))
        self.write(last + event(b"[DONE]") + b"0\r\n\r\n")
        self.ended()


class Exchange(asyncio.Protocol):
    """One connection of a client, kept alive: requests are answered one after the other."""

    def __init__(self) -> None:
        self.buffer = bytearray()
        self.stream: Stream | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        if self.stream:
            self.stream.stop()

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        self.next_request()

    def next_request(self) -> None:
        blank = self.buffer.find(b"\r\n\r\n")
        if blank < 0 or self.stream:
            return
        end = blank + 4
        head = bytes(self.buffer[:end])
        length = LENGTH.search(head)
        whole = end + (int(length[1]) if length else 0)
        if len(self.buffer) < whole:
            return
        body = bytes(self.buffer[end:whole])
        del self.buffer[:whole]
        self.answer(head, body)

    def answer(self, head: bytes, body: bytes) -> None:
        if head.startswith(b"GET "):
            self.transport.write(plain(b"200 OK", MODELS))
        elif not body:
            # Chunked bodies are not read here; refusing them beats a benchmark of half a request.
            self.transport.write(plain(b"411 Length Required", b"{}"))
            self.transport.close()
        elif STREAM.search(body):
            self.stream = Stream(body, self.transport.write, self.stream_ended)
            self.stream.start()
        else:
            self.transport.write(plain(b"200 OK", completion(body)))

    def stream_ended(self) -> None:
        self.stream = None
        self.next_request()


async def serve(port: int) -> None:
    """Answer on 127.0.0.1:`port` until the process is ended."""
    server = await asyncio.get_running_loop().create_server(Exchange, "127.0.0.1", port, backlog=1024)
    async with server:
        await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
