"""The Runtime API of one execution environment: its process asks here for invocations, and answers them.

It is as strict as AWS's own server: an invocation's id has to be echoed, a buffered response has at most 6 MB,
trailers over 4 KB end the environment.
https://docs.aws.amazon.com/lambda/latest/dg/runtimes-api.html
"""

from __future__ import annotations

import asyncio
import base64
import time
from typing import TYPE_CHECKING

import h11

from local.invocation import FunctionError, Invocation
from local.wire import Connection, Server

if TYPE_CHECKING:
    from collections.abc import Callable

RESPONSE_BYTES = 6 * 1024 * 1024
TRAILER_BYTES = 4096
HEADERS_TOO_LARGE = 431
"""What h11 calls trailers that are longer still (RFC 6585)."""
ACCEPTED = b'{"status":"OK"}'


class RuntimeApi:
    """Invocations of the function `arn` for one process.

    `changed` is called when the process asks for work and when it has ended a response; `kill` must end it.
    """

    def __init__(self, arn: str, timeout_s: float, changed: Callable[[], None], kill: Callable[[], None]) -> None:
        self.arn, self.timeout_s = arn, timeout_s
        self.ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        """Done when the process first asks for work; a FunctionError when its init fails."""
        self.running: dict[str, Invocation] = {}
        """From the moment that the process has the event until it asks for the next one."""
        self._changed, self._kill = changed, kill
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._asking: list[asyncio.Future[Invocation]] = []
        self._server = Server(self._answer)

    async def start(self) -> str:
        """Listen; the address is for AWS_LAMBDA_RUNTIME_API."""
        return await self._server.start()

    async def stop(self, error: FunctionError) -> None:
        """Break off what is running, with this error."""
        if not self.ready.done():
            self.ready.set_exception(error)
        for invocation in list(self.running.values()):
            invocation.end(error)
            self._forget(invocation)
        await self._server.stop()

    @property
    def idle(self) -> int:
        """How many invocations the process is asking for."""
        return len(self._asking)

    def give(self, invocation: Invocation) -> None:
        """Hand an invocation to the process, which must be idle; from now on its time runs."""
        self.running[invocation.id] = invocation
        self._timers[invocation.id] = asyncio.get_running_loop().call_later(self.timeout_s, self._expire, invocation)
        self._asking.pop(0).set_result(invocation)

    def _expire(self, invocation: Invocation) -> None:
        message = f"{invocation.id} Task timed out after {self.timeout_s:.2f} seconds"
        invocation.end(FunctionError("Sandbox.Timedout", message))
        self._kill()

    def _forget(self, invocation: Invocation) -> None:
        del self.running[invocation.id]
        self._timers.pop(invocation.id).cancel()

    async def _answer(self, connection: Connection) -> None:
        match connection.target.split("/")[3:]:
            case ["invocation", "next"]:
                await self._next(connection)
            case ["invocation", request_id, outcome] if request_id in self.running:
                await self._outcome(connection, self.running[request_id], outcome)
            case ["init" | "restore", "error"]:
                await self._init_error(connection)
            case ["restore", "next"]:
                await connection.body()
                await connection.respond(200)
                # This connection stays behind in the snapshot: nobody answers on it after the restore.
                await asyncio.Event().wait()
            case _:
                await connection.body()
                await connection.respond(400, b'{"errorType":"InvalidRequestID"}')

    async def _next(self, connection: Connection) -> None:
        await connection.body()
        for invocation in [invocation for invocation in self.running.values() if invocation.ended]:
            self._forget(invocation)
        asking: asyncio.Future[Invocation] = asyncio.get_running_loop().create_future()
        self._asking.append(asking)
        if not self.ready.done():
            self.ready.set_result(None)
        self._changed()
        invocation = await asking
        deadline_ms = int(1000 * (time.time() + self.timeout_s))
        headers = [
            ("content-type", "application/json"),
            ("lambda-runtime-aws-request-id", invocation.id),
            ("lambda-runtime-invocation-id", invocation.id),
            ("lambda-runtime-deadline-ms", str(deadline_ms)),
            ("lambda-runtime-invoked-function-arn", self.arn),
            (
                "lambda-runtime-trace-id",
                f"Root=1-{int(time.time()):08x}-{invocation.id.replace('-', '')[:24]}",
            ),
        ]
        await connection.respond(200, invocation.event, headers)

    async def _outcome(self, connection: Connection, invocation: Invocation, outcome: str) -> None:
        if connection.header("lambda-runtime-invocation-id") != invocation.id:
            await connection.body()
            await connection.respond(400, b'{"errorType":"InvalidInvocationID"}')
        elif outcome == "error":
            invocation.end(FunctionError.parse(_kind(connection), await connection.body()))
            await connection.respond(202, ACCEPTED)
        elif connection.header("lambda-runtime-function-response-mode") == "streaming":
            await self._stream(connection, invocation)
        else:
            await self._buffer(connection, invocation)
        self._changed()

    async def _buffer(self, connection: Connection, invocation: Invocation) -> None:
        payload = await connection.body()
        if len(payload) > RESPONSE_BYTES:
            message = f"Response payload size exceeded maximum allowed payload size ({RESPONSE_BYTES} bytes)."
            invocation.end(FunctionError("Function.ResponseSizeTooLarge", message))
            await connection.respond(413, b'{"errorType":"RequestEntityTooLarge"}')
            return
        invocation.add(payload)
        invocation.end()
        await connection.respond(202, ACCEPTED)

    async def _stream(self, connection: Connection, invocation: Invocation) -> None:
        try:
            async for chunk in connection.chunks():
                invocation.add(chunk)
        except (h11.RemoteProtocolError, ConnectionError) as error:
            if getattr(error, "error_status_hint", None) == HEADERS_TOO_LARGE:
                self._kill()
            invocation.end(FunctionError("Runtime.TruncatedResponse", "the runtime cut its response"))
            raise
        trailers = connection.trailers
        if sum(len(name) + len(value) + 4 for name, value in trailers.items()) > TRAILER_BYTES:
            self._kill()
            return
        kind = trailers.get("lambda-runtime-function-error-type")
        report = base64.b64decode(trailers.get("lambda-runtime-function-error-body", ""))
        invocation.end(FunctionError.parse(kind, report) if kind else None)
        await connection.respond(202, ACCEPTED)

    async def _init_error(self, connection: Connection) -> None:
        error = FunctionError.parse(_kind(connection), await connection.body())
        if not self.ready.done():
            self.ready.set_exception(error)
        await connection.respond(202, ACCEPTED)


def _kind(connection: Connection) -> str:
    return connection.header("lambda-runtime-function-error-type") or "Unhandled"
