"""The Lambda runtime of the streamed functions: an ASGI app, served on asyncio, whose chunks leave at once.

    python -m gateway.http.streaming chat.handler.handler

serves `app` of the module that the handler is in; the handler itself is for a deploy without streaming. It
takes the place of the stock runtime, which cannot stream, by AWS_LAMBDA_EXEC_WRAPPER. The app is promised:

- one event loop for the life of the environment, and its lifespan run once: startup in the init phase (with
  SnapStart: before the snapshot), shutdown on SIGTERM;
- a scope that `gateway.http.adapter` translates, with `aws.event` and `aws.context`;
- that `receive()` after the body waits for the response to end: Lambda does not tell of a client that leaves;
- that its last byte is with the client as soon as it is sent. What the app does after that still runs, before
  the next invocation is asked for;
- to be cancelled 1 s before the function's deadline, or a tenth of its time if that is more (of under 2 s,
  half), so that its `finally` blocks run before Lambda kills the process;
- with AWS_LAMBDA_MAX_CONCURRENCY (Lambda Managed Instances) as many invocations at once, in this one process.

An error before the first byte is reported to Lambda, and API Gateway answers 502. After it, all that is left
is to cut the stream, with the reason in its trailers.

Runtime API: https://docs.aws.amazon.com/lambda/latest/dg/runtimes-custom.html#runtimes-custom-response-streaming
Response: https://docs.aws.amazon.com/apigateway/latest/developerguide/response-transfer-mode-lambda.html
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import io
import json
import os
import signal
import sys
import time
import traceback
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from awslambdaric.lambda_context import LambdaContext

from gateway.http.adapter import Request

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from mangum.types import ASGI, Message

VERSION = "/2018-06-01/runtime"
ERROR_TYPE = "Lambda-Runtime-Function-Error-Type"
ERROR_BODY = "Lambda-Runtime-Function-Error-Body"
REQUEST_ID = "lambda-runtime-aws-request-id"
INVOCATION_ID = "lambda-runtime-invocation-id"
STREAMED = {
    "Connection": "close",
    "Content-Type": "application/vnd.awslambda.http-integration-response",
    "Lambda-Runtime-Function-Response-Mode": "streaming",
    "Transfer-Encoding": "chunked",
    "Trailer": f"{ERROR_TYPE}, {ERROR_BODY}",
}
FRAMING = {"connection", "content-length", "transfer-encoding"}
"""Headers that belong to a connection: API Gateway frames its own."""
OK, ACCEPTED = 200, 202
NO_BODY = {204, 304}
MESSAGE_BYTES = 1024
"""Of an error's text. Trailers over 4 KB in all make Lambda kill the environment."""


class Reply(NamedTuple):
    """What the Runtime API answered; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Fault(NamedTuple):
    """An error as Lambda wants to hear of it; without the stack, which is for the log alone."""

    type: str
    body: bytes

    @classmethod
    def of(cls, error: BaseException) -> Fault:
        name = ascii(type(error).__name__)[1:-1][:100]
        text = str(error).encode(errors="replace")[:MESSAGE_BYTES].decode(errors="ignore")
        # Control characters would grow sixfold in JSON.
        message = "".join(char if char.isprintable() else " " for char in text)
        body = json.dumps({"errorMessage": message, "errorType": name}, ensure_ascii=False)
        return cls(name, body.encode())


class Connection:
    """An HTTP/1.1 connection to the Runtime API."""

    def __init__(self, address: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.address, self.reader, self.writer = address, reader, writer

    @classmethod
    async def open(cls, address: str) -> Connection:
        host, _, port = address.partition(":")
        return cls(address, *await asyncio.open_connection(host, int(port or 80)))

    def write_head(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        self.writer.write(f"{method} {VERSION}{path} HTTP/1.1\r\nHost: {self.address}\r\n".encode())
        self.writer.write(fields(headers))

    async def read(self) -> Reply:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status, *lines = head.removesuffix("\r\n\r\n").split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding") == "chunked":
            body = await self._read_chunks()
        else:
            body = await self.reader.readexactly(int(headers.get("content-length", "0")))
        return Reply(int(status.split()[1]), headers, body)

    async def _read_chunks(self) -> bytes:
        body = bytearray()
        while size := int((await self.reader.readline()).partition(b";")[0], 16):
            body += (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()
        return bytes(body)


def fields(headers: Mapping[str, str]) -> bytes:
    """Header or trailer lines, and the empty line that ends them."""
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode() + b"\r\n"


class RuntimeApi:
    """The Runtime API on one connection that is kept; a streamed response takes a connection of its own."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._kept: Connection | None = None

    async def call(self, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Reply:
        """One request. A kept connection may have died while the environment was frozen: then on a fresh one.

        Raises OSError or asyncio.IncompleteReadError when the Runtime API is gone.
        """
        if self._kept:
            with suppress(OSError, asyncio.IncompleteReadError):
                return await self._exchange(self._kept, method, path, body, headers or {})
            self.forget()
        self._kept = await Connection.open(self.address)
        return await self._exchange(self._kept, method, path, body, headers or {})

    async def report(self, path: str, fault: Fault, headers: Mapping[str, str] | None = None) -> None:
        await self.call("POST", path, fault.body, {**(headers or {}), ERROR_TYPE: fault.type})

    def forget(self) -> None:
        """Close the kept connection, as after a snapshot, to which it belongs."""
        if self._kept:
            self._kept.writer.close()
            self._kept = None

    @staticmethod
    async def _exchange(
        connection: Connection, method: str, path: str, body: bytes, headers: Mapping[str, str]
    ) -> Reply:
        connection.write_head(method, path, {"Content-Length": str(len(body)), **headers})
        connection.writer.write(body)
        return await connection.read()


class Response:
    """The response of one invocation: the ASGI `send` of the app that answers it, and how it ends."""

    def __init__(self, api: RuntimeApi, invocation: Reply) -> None:
        headers = invocation.headers
        self.api = api
        self.path = f"/invocation/{headers[REQUEST_ID]}"
        # Lambda sends it so as to have it echoed, and takes no answer that is meant for another invocation.
        self.echo = {name: value for name, value in headers.items() if name == INVOCATION_ID}
        self.ended = asyncio.Event()
        self._stream: Connection | None = None
        self._needs_body = False

    async def send(self, message: Message) -> None:
        kind = message["type"]
        if kind == "http.response.start" and self._stream is None:
            # Not held back until the first chunk: a first token may take its time.
            self._stream = await Connection.open(self.api.address)
            self._stream.write_head("POST", f"{self.path}/response", {**STREAMED, **self.echo})
            self._write(prelude(message))
            self._needs_body = message["status"] not in NO_BODY
        elif kind == "http.response.body" and self._stream and not self.ended.is_set():
            if data := message.get("body", b""):
                self._write(data)
                self._needs_body = False
            if message.get("more_body", False):
                await self._stream.writer.drain()
            else:
                self._end()
        else:
            raise RuntimeError(f"{kind} was sent out of turn")

    async def finish(self) -> None:
        """Wait until Lambda has the whole response, which the app must have ended by now."""
        if self._stream is None or not self.ended.is_set():
            raise RuntimeError("the app returned before its response was whole")
        reply = await self._stream.read()
        self._stream.writer.close()
        if reply.status != ACCEPTED:
            raise RuntimeError(f"Lambda refused the response with status {reply.status}")

    async def fail(self, error: BaseException) -> None:
        """Tell Lambda what broke the response, if it has not ended: one that has stays as it is."""
        fault = Fault.of(error)
        if self._stream is None:
            await self.api.report(f"{self.path}/error", fault, self.echo)
            return
        if not self.ended.is_set():
            self._end({ERROR_TYPE: fault.type, ERROR_BODY: base64.b64encode(fault.body).decode()})
        await self._stream.read()
        self._stream.writer.close()

    def _write(self, data: bytes) -> None:
        if self._stream:
            self._stream.writer.write(b"%x\r\n%s\r\n" % (len(data), data))

    def _end(self, trailers: Mapping[str, str] | None = None) -> None:
        if self._needs_body and not trailers:
            self._write(b"\n")  # a stream without a byte of body hangs behind API Gateway
        if self._stream:
            self._stream.writer.write(b"0\r\n" + fields(trailers or {}))
        self.ended.set()


def prelude(start: Message) -> bytes:
    """What precedes the body: status, headers and cookies as JSON, and eight NULs."""
    headers: dict[str, str] = {}
    cookies = []
    for raw_name, raw_value in start.get("headers", ()):
        name, value = raw_name.decode("latin-1").lower(), raw_value.decode("latin-1")
        if name == "set-cookie":
            cookies.append(value)
        elif name not in FRAMING:
            headers[name] = f"{headers[name]}, {value}" if name in headers else value
    metadata = {"statusCode": start["status"], "headers": headers, "cookies": cookies}
    return json.dumps(metadata).encode() + bytes(8)


async def answer(app: ASGI, state: Mapping[str, Any], invocation: Reply, response: Response) -> None:
    """Let the app answer one invocation. Raises what the app raised, and TimeoutError near the deadline."""
    headers = invocation.headers
    deadline_ms = int(headers["lambda-runtime-deadline-ms"])
    arn = headers.get("lambda-runtime-invoked-function-arn")
    context = LambdaContext(headers[REQUEST_ID], None, None, deadline_ms, arn)
    request = Request(json.loads(invocation.body), context)
    messages: list[Message] = [{"type": "http.request", "body": request.body, "more_body": False}]

    async def receive() -> Message:
        if messages:
            return messages.pop()
        await response.ended.wait()
        return {"type": "http.disconnect"}

    async with asyncio.timeout(budget(deadline_ms / 1000 - time.time())):
        await app({**request.scope, "state": dict(state)}, receive, response.send)
    await response.finish()


def budget(left: float) -> float:
    """The app's share of the seconds that are left to its function; the rest is for its `finally` blocks."""
    return max(left - max(1.0, left / 10), left / 2)


async def work(app: ASGI, state: Mapping[str, Any], api: RuntimeApi) -> None:
    """Serve one invocation after the other, for ever; what breaks one of them does not reach the next.

    Raises RuntimeError, OSError or asyncio.IncompleteReadError when Lambda has no more to give.
    """
    while True:
        invocation = await api.call("GET", "/invocation/next")
        if invocation.status != OK:
            raise RuntimeError(f"Lambda has no invocation but status {invocation.status}")
        response = Response(api, invocation)
        try:
            await answer(app, state, invocation, response)
        except (Exception, asyncio.CancelledError) as error:
            if ending():
                raise
            log(error, invocation.headers[REQUEST_ID])
            with suppress(OSError, asyncio.IncompleteReadError):
                await response.fail(error)


def ending() -> bool:
    """Whether this worker is being cancelled, as opposed to something inside the app that was."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


@asynccontextmanager
async def lifespan(app: ASGI) -> AsyncIterator[Mapping[str, Any]]:
    """The app's lifespan, and its state; an app that does not take one is served without.

    Raises RuntimeError when the app says that it cannot start.
    """
    state: dict[str, Any] = {}
    asked: asyncio.Queue[Message] = asyncio.Queue()
    answered: asyncio.Queue[Message] = asyncio.Queue()
    scope = {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": state}
    life = asyncio.create_task(app(scope, asked.get, answered.put))

    async def phase(name: str) -> None:
        asked.put_nowait({"type": f"lifespan.{name}"})
        reply = asyncio.create_task(answered.get())
        await asyncio.wait({life, reply}, return_when=asyncio.FIRST_COMPLETED)
        if not reply.done():
            reply.cancel()
        elif reply.result()["type"] == f"lifespan.{name}.failed":
            raise RuntimeError(reply.result().get("message", f"the app's {name} failed"))

    try:
        await phase("startup")
        try:
            yield state
        finally:
            await phase("shutdown")
    finally:
        life.cancel()
        await asyncio.gather(life, return_exceptions=True)


@asynccontextmanager
async def reported(api: RuntimeApi, path: str) -> AsyncIterator[None]:
    """Tell Lambda of an error in the block, and end the process with it."""
    try:
        yield
    except (Exception, SystemExit) as error:  # noqa: BLE001 - Lambda is told, whatever it was
        log(error)
        with suppress(OSError, asyncio.IncompleteReadError):
            await api.report(path, Fault.of(error))
        raise SystemExit(1) from None


async def run(handler: str, environ: Mapping[str, str]) -> None:
    """Be the execution environment of a function: init, then invocations until SIGTERM cancels this."""
    api = RuntimeApi(environ["AWS_LAMBDA_RUNTIME_API"])
    if task := asyncio.current_task():
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    async with AsyncExitStack() as stack:
        async with reported(api, "/init/error"):
            app = load(handler)
            state = await stack.enter_async_context(lifespan(app))
        if environ.get("AWS_LAMBDA_INITIALIZATION_TYPE") == "snap-start":
            await snapshot(api)
        workers = await stack.enter_async_context(asyncio.TaskGroup())
        for _ in range(int(environ.get("AWS_LAMBDA_MAX_CONCURRENCY", "1"))):
            workers.create_task(work(app, state, RuntimeApi(api.address)))


def load(handler: str) -> ASGI:
    """The `app` of the module that the handler is in."""
    module = handler.rpartition(".")[0].replace("/", ".")
    app: ASGI = importlib.import_module(module).app
    return app


async def snapshot(api: RuntimeApi) -> None:
    """SnapStart: the hooks around the snapshot that later environments start from."""
    from awslambdaric import lambda_runtime_hooks_runner as hooks  # noqa: PLC0415 - of no use without SnapStart

    async with reported(api, "/init/error"):
        hooks.run_before_snapshot()
    await api.call("GET", "/restore/next")
    api.forget()
    async with reported(api, "/restore/error"):
        hooks.run_after_restore()


def log(error: BaseException, request_id: str = "") -> None:
    """One line of JSON on standard output, which Lambda takes to CloudWatch."""
    frames = traceback.extract_tb(error.__traceback__)
    stack = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    fault = json.loads(Fault.of(error).body)
    line = json.dumps({"level": "ERROR", "requestId": request_id, **fault, "stackTrace": stack})
    sys.stdout.write(f"{line}\n")


def main() -> None:
    """Serve the handler that Lambda names, `$_HANDLER`, as the one argument."""
    # Standard output is a pipe, and what waits in its buffer is frozen with the environment.
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    with suppress(asyncio.CancelledError):
        asyncio.run(run(sys.argv[1], os.environ))


if __name__ == "__main__":
    main()
