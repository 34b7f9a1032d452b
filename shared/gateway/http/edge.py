"""The edge of every group's app: request ids, security headers, a limit on bodies, and the one error body."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any

import msgspec
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute

from gateway import telemetry
from gateway.errors import (
    GatewayError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    PayloadTooLarge,
)

MAX_BODY_BYTES = 5 << 20
"""Lambda takes events of 6 MB, with the body as a JSON string in it."""

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
    """ASGI around an app: what it raises leaves as an error body, unless its answer had begun."""

    def __init__(self, app: App, routes: Sequence[BaseRoute]) -> None:
        self.app, self.routes = app, routes

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope["request_id"] = request_id = f"req_{secrets.token_hex(12)}"
        scope["app"] = self  # without one a bare Router answers 404 and 405 itself, as plain text
        begun = ended = False

        async def send_marked(message: Message) -> None:
            nonlocal begun, ended
            if message["type"] == "http.response.start":
                begun = True
                given = {name for name, _ in message["headers"]}
                marks = [(b"x-request-id", request_id.encode()), *SECURITY_HEADERS]
                message["headers"] = [*message["headers"], *(mark for mark in marks if mark[0] not in given)]
            await send(message)
            ended = message["type"] == "http.response.body" and not message.get("more_body", False)

        try:
            await self.app(scope, _limited(receive), send_marked)
        except Exception as error:
            if ended or not isinstance(error, GatewayError | HTTPException):
                telemetry.failure("request_failed", error, request_id=request_id, path=scope["path"])
            if not begun:
                await respond(shown(error), request_id, send_marked)
            elif not ended:
                raise


def _limited(receive: Receive) -> Receive:
    size = 0

    async def receive_counted() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MAX_BODY_BYTES:
            raise PayloadTooLarge
        return message

    return receive_counted


def shown(error: Exception) -> GatewayError:
    """What an exception is to the client. The framework's own are about addresses, methods and malformed requests."""
    if isinstance(error, GatewayError):
        return error
    if isinstance(error.__cause__, GatewayError):
        return error.__cause__  # FastAPI wraps what is raised while it reads a body
    if isinstance(error, HTTPException):
        return {404: NotFound, 405: MethodNotAllowed}.get(error.status_code, InvalidRequest)()
    return InternalError()


async def respond(error: GatewayError, request_id: str, send: Send) -> None:
    """Send an error as the whole answer."""
    body = msgspec.json.encode(error.body(request_id))
    headers = {"content-type": "application/json", "content-length": str(len(body)), **error.headers()}
    encoded = [(name.encode(), value.encode()) for name, value in headers.items()]
    await send({"type": "http.response.start", "status": error.status, "headers": encoded})
    await send({"type": "http.response.body", "body": body})
