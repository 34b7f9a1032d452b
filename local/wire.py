"""HTTP/1.1 as a server sees it on the wire: header lines as they came, chunks as they come, and the trailers.

ASGI servers show an app none of the trailers, in which a Lambda runtime reports that its stream broke.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import h11

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence

    type Handle = Callable[["Connection"], Awaitable[None]]

READ_BYTES = 65_536


class Connection:
    """One connection of a client, and the request on it that is being answered."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.method = self.target = ""
        self.lines: list[tuple[str, str]] = []
        """The header lines of the request, spelled as the client did."""
        self.trailers: dict[str, str] = {}
        self.status: int | None = None
        """Of the response to the request, once it has begun."""
        self._reader, self._writer, self._http = reader, writer, h11.Connection(h11.SERVER)

    @property
    def peer(self) -> str:
        return str(self._writer.get_extra_info("peername")[0])

    @property
    def begun(self) -> bool:
        """Whether a response has begun, so that no other can take its place."""
        return self._http.our_state not in {h11.IDLE, h11.SEND_RESPONSE}

    def header(self, name: str) -> str | None:
        """The first line of this name, which is given in lower case."""
        return next((value for line, value in self.lines if line.lower() == name), None)

    async def next_request(self) -> bool:
        """Read the head of a request; False when the client has none left. Raises h11.RemoteProtocolError."""
        request = await self._event()
        if not isinstance(request, h11.Request):
            return False
        self.status = None
        self.method, self.target = request.method.decode(), request.target.decode()
        raw = request.headers.raw_items()
        self.lines = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in raw]
        return True

    async def chunks(self) -> AsyncIterator[bytes]:
        """The body as it arrives, and after it `trailers`. Raises h11.RemoteProtocolError if it is cut."""
        while isinstance(event := await self._event(), h11.Data):
            yield bytes(event.data)
        if isinstance(event, h11.EndOfMessage):
            self.trailers = {name.decode().lower(): value.decode() for name, value in event.headers}

    async def body(self) -> bytes:
        return b"".join([chunk async for chunk in self.chunks()])

    async def start(self, status: int, headers: Iterable[tuple[str, str]]) -> None:
        """Begin a response; without a content-length it is chunked."""
        self.status = status
        lines = [(name.encode("latin-1"), value.encode("latin-1", "replace")) for name, value in headers]
        await self._send(h11.Response(status_code=status, headers=lines))

    async def write(self, data: bytes) -> None:
        """Send a part of the body, which the answer to HEAD has not."""
        if self.method != "HEAD":
            await self._send(h11.Data(data=data))

    async def end(self) -> None:
        await self._send(h11.EndOfMessage())

    async def respond(self, status: int, body: bytes = b"", headers: Sequence[tuple[str, str]] = ()) -> None:
        """Send a whole response."""
        await self.start(status, [*headers, ("content-length", str(len(body)))])
        await self.write(body)
        await self.end()

    def next_cycle(self) -> bool:
        """Whether this connection may carry another request."""
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    def close(self) -> None:
        self._writer.close()

    async def _event(self) -> h11.Event | type[h11.NEED_DATA | h11.PAUSED]:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            if self._http.they_are_waiting_for_100_continue:
                await self._send(h11.InformationalResponse(status_code=100, headers=[]))
            self._http.receive_data(await self._reader.read(READ_BYTES))
        return event

    async def _send(self, event: h11.Event) -> None:
        if data := self._http.send(event):
            self._writer.write(data)
            await self._writer.drain()


class Server:
    """A server on loopback, which hands each request to `handle`."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> str:
        """Listen, on any free port if it is 0; the host and port that were taken. Raises OSError."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        host, taken = self._server.sockets[0].getsockname()
        return f"{host}:{taken}"

    async def stop(self) -> None:
        """Close the port and every connection, whatever they are waiting for."""
        if self._server:
            self._server.close()
        tasks = self._serving - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task:
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)
        connection = Connection(reader, writer)
        try:
            # A client may leave, or speak something else than HTTP: then there is nobody to answer.
            with suppress(ConnectionError, h11.ProtocolError):
                while await connection.next_request():
                    await self._handle(connection)
                    if not connection.next_cycle():
                        break
        finally:
            connection.close()
