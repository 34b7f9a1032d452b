"""The edge of every group's app: request ids, security headers, a limit on bodies, and the one error body."""

from __future__ import annotations

import secrets
import time
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute, Match

from gateway import telemetry
from gateway.errors import (
    GatewayError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
)
from gateway.http.room import Share
from gateway.traces import Trace, trace_of

MAX_BODY_BYTES = 5 << 20
"""Lambda takes events of 6 MB, with the body as a JSON string in it."""

TRACE_HEADERS = (b"traceparent", b"tracestate")

type Message = MutableMapping[str, Any]
type Receive = Callable[[], Awaitable[Message]]
type Send = Callable[[Message], Awaitable[None]]
type App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

SECURITY_HEADERS = [
    (b"strict-transport-security", b"max-age=31536000; includeSubDomains"),
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
]


class Edge:
    """ASGI around an app: what it raises leaves as an error body, unless its answer had begun; each request is told in
    the log, with what its context had noted, when all of its work is done.
    """

    def __init__(self, app: App, routes: Sequence[BaseRoute], most_bytes: int = MAX_BODY_BYTES) -> None:
        self.app, self.routes, self._most_bytes = app, routes, most_bytes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope["request_id"] = request_id = f"req_{secrets.token_hex(12)}"
        scope["app"] = self  # without one a bare Router answers 404 and 405 itself, as plain text
        request = telemetry.begin(request_id, _trace(scope))
        scope["share"] = share = Share()
        answer = _Answer(request_id, send, lambda: self._allowed(scope))
        try:
            await self.app(scope, _limited(scope, receive, self._most_bytes, share), answer.send)
        except ClientDisconnect:
            request.facts["left"] = True
        except Exception as error:
            if answer.ended_s is not None or not isinstance(error, GatewayError | HTTPException):
                telemetry.failure("request_failed", error, operation=_operation(scope))
            if answer.status is None:
                await respond(shown(error), request_id, answer.send)
            elif answer.ended_s is None:
                raise
        finally:
            share.give_back()
            _tell(scope, request, answer)

    def _allowed(self, scope: MutableMapping[str, Any]) -> bytes:
        """The methods that the request's address answers, for `Allow` (RFC 9110 10.2.1)."""
        found = [route for route in self.routes if route.matches(scope)[0] is not Match.NONE]
        methods = {method for route in found for method in getattr(route, "methods", None) or ()}
        return ", ".join(sorted(methods)).encode()


class _Answer:
    """How far an answer is: its status once it has begun, and when its last byte was sent."""

    def __init__(self, request_id: str, send: Send, allowed: Callable[[], bytes]) -> None:
        self.status: int | None = None
        self.ended_s: float | None = None
        self._request_id, self._send, self._allowed, self._began_s = request_id, send, allowed, time.monotonic()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            given = {name for name, _ in message["headers"]}
            marks = [(b"x-request-id", self._request_id.encode()), *SECURITY_HEADERS]
            if self.status == MethodNotAllowed.status:
                marks.append((b"allow", self._allowed()))
            message["headers"] = [*message["headers"], *(mark for mark in marks if mark[0] not in given)]
        await self._send(message)
        if message["type"] == "http.response.body" and not message.get("more_body", False):
            self.ended_s = time.monotonic()

    def duration_ms(self) -> float:
        """Until the client had the last byte; until now, of an answer that has none."""
        return round(1000 * ((self.ended_s or time.monotonic()) - self._began_s), 1)


def _tell(scope: MutableMapping[str, Any], request: telemetry.Request, answer: _Answer) -> None:
    """One line for a request, with what its context had noted, and its metrics."""
    operation, duration_ms = _operation(scope), answer.duration_ms()
    dimensions = {"Operation": operation or "", "Status": str(answer.status or "")}
    telemetry.measure({"Requests": 1, "RequestTime": duration_ms}, dimensions)
    told = {"method": scope["method"], "operation": operation, "status": answer.status, "duration_ms": duration_ms}
    telemetry.log("request", metrics=request.metrics, **told, **request.facts)


def _operation(scope: MutableMapping[str, Any]) -> str | None:
    """What the request asked for: the name of its route's function. Paths may hold anything, so they are not logged."""
    endpoint = scope.get("endpoint")
    return getattr(endpoint, "__name__", None)


def _trace(scope: MutableMapping[str, Any]) -> Trace:
    """Of two lines neither is believed."""
    given: dict[bytes, str | None] = {}
    for name, value in scope["headers"]:
        if name in TRACE_HEADERS:
            given[name] = None if name in given else value.decode("latin-1")
    return trace_of(*map(given.get, TRACE_HEADERS))


def _limited(scope: MutableMapping[str, Any], receive: Receive, most_bytes: int, share: Share) -> Receive:
    """`receive` with the body's limit: PayloadTooLarge above `most_bytes`, at once where the client says its length;
    Overloaded when the requests of this process have no room left for it.
    """
    size = 0
    is_too_large = _length(scope) > most_bytes

    async def receive_counted() -> Message:
        nonlocal size
        if is_too_large:
            raise PayloadTooLarge
        message = await receive()
        if arrived := len(message.get("body", b"")):
            size += arrived
            if size > most_bytes:
                raise PayloadTooLarge
            share.take(arrived)
        return message

    return receive_counted


def _length(scope: MutableMapping[str, Any]) -> int:
    """How long the client says that its body is; 0 where it says nothing that can be read."""
    given = next((value for name, value in scope["headers"] if name == b"content-length"), b"")
    return int(given[:20]) if given.isdigit() else 0


def shown(error: Exception) -> GatewayError:
    """What an exception is to the client. The framework's own are about addresses, methods and malformed requests."""
    if isinstance(error, GatewayError):
        return error
    if isinstance(error.__cause__, GatewayError):
        return error.__cause__  # FastAPI wraps what is raised while it reads a body
    if isinstance(error, HTTPException):
        return {404: NotFound, 405: MethodNotAllowed}.get(error.status_code, InvalidRequest)()
    return InternalError()


def body_of(error: GatewayError, request_id: str) -> bytes:
    """An error as the client reads it; its code is noted for the log."""
    if request := telemetry.serving():
        request.facts["code"] = error.code
    return msgspec.json.encode(error.body(request_id))


async def respond(error: GatewayError, request_id: str, send: Send) -> None:
    """Send an error as the whole answer."""
    body = body_of(error, request_id)
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers()}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
