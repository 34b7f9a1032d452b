"""Real sockets for tests: an ASGI app behind uvicorn, and a wire that can be cut."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING, Any

import uvicorn

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

DEADLINE_S = 10


@contextmanager
def served(app: Any) -> Iterator[str]:
    """The app's address on loopback, while the block runs."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", lifespan="on", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
    thread.start()
    deadline = time.monotonic() + DEADLINE_S
    while not server.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(DEADLINE_S)
        listener.close()


class Wire:
    """A loopback port that leads to another one. `cut_next_reply` lets the far side do its work and loses its
    answer."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._cut = False
        self._pipes: set[asyncio.Task[None]] = set()
        self.port = 0

    def cut_next_reply(self) -> None:
        self._cut = True

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Wire]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            server.close()
            for pipe in self._pipes:
                pipe.cancel()
            await asyncio.gather(*self._pipes, return_exceptions=True)
            await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        for source, sink, reply in ((reader, far_writer, False), (far_reader, writer, True)):
            pipe = asyncio.create_task(self._pipe(source, sink, reply=reply))
            self._pipes.add(pipe)

    async def _pipe(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, *, reply: bool) -> None:
        try:
            with suppress(OSError):
                while data := await source.read(65536):
                    if reply and self._cut:
                        self._cut = False
                        break
                    sink.write(data)
                    await sink.drain()
        finally:
            sink.close()
            with suppress(OSError):
                await sink.wait_closed()
