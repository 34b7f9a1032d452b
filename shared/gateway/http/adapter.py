"""API Gateway's REST events as ASGI requests: one translation, and the buffered handler that is built on it.

Mangum translates and answers; what a client could lie about is taken from its hands first:

- Host and server are `requestContext.domainName`, the client is `requestContext.identity.sourceIp`. Mangum
  believes the Host header (and fails on `a:b:c`, `[::1]:80` or `evil/#@x`), so it is shown no header at all.
- Each header line stays a line of its own. Two `Authorization` lines therefore reach the app as two, never
  joined by a comma into one credential, and the app refuses them with a 401.
- `path` is percent-decoded once, `raw_path` not: `%2F` in a model's id becomes `/`, `%252F` becomes `%2F`.

Events: https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html
"""

from __future__ import annotations

import asyncio
from functools import cache
from typing import TYPE_CHECKING, Any

from mangum.handlers import APIGateway
from mangum.protocols import HTTPCycle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from mangum.types import ASGI, LambdaConfig, LambdaContext, Response, Scope

MAX_REPLY_BYTES = 6 * 1024 * 1024 - 65_536
"""Lambda takes replies of 6 MB, of which this is left for the body: headers and the rest are less."""

type Handler = Callable[[Any, LambdaContext], dict[str, Any]]

CONFIG: LambdaConfig = {
    "api_gateway_base_path": "/",
    # What decodes as UTF-8 is text: a REST API without binary media types would show its clients the base64.
    "text_mime_types": ["text/", "application/"],
    "exclude_headers": [],
}


class NotAnHttpEvent(TypeError):
    """The function was invoked with something else than a REST API's event, such as a queue's."""


class Request(APIGateway):
    """A REST event as an ASGI request (`scope`, `body`); called with the app's response, API Gateway's reply.

    Raises NotAnHttpEvent.
    """

    def __init__(self, event: Any, context: LambdaContext) -> None:
        if not (isinstance(event, dict) and isinstance(event.get("requestContext"), dict) and "httpMethod" in event):
            raise NotAnHttpEvent("the event is not one of an API Gateway REST API")
        super().__init__(event, context, CONFIG)

    @property
    def scope(self) -> Scope:
        domain = self.event["requestContext"].get("domainName") or "localhost"
        path = self.event.get("path") or "/"
        return {
            **self._without_headers(path).scope,
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "scheme": "https",
            "server": (domain, 443),
            "raw_path": _bytes(path),
            "headers": [(b"host", _bytes(domain)), *self._header_lines()],
            "aws.event": self.event,
        }

    def __call__(self, response: Response) -> dict[str, Any]:
        """The reply; Mangum reads header values as UTF-8, ASGI's are Latin-1."""
        headers = [[name, value.decode("latin-1").encode()] for name, value in response["headers"]]
        return super().__call__({**response, "headers": headers})

    def _without_headers(self, path: str) -> APIGateway:
        event = {**self.event, "path": path, "headers": None, "multiValueHeaders": None}
        return APIGateway(event, self.context, self.config)

    def _header_lines(self) -> Iterator[tuple[bytes, bytes]]:
        lines = self.event.get("multiValueHeaders")
        if not lines:
            lines = {name: [value] for name, value in (self.event.get("headers") or {}).items()}
        for name, values in lines.items():
            if name.lower() != "host":
                for value in values or ():
                    yield _bytes(name.lower()), _bytes(value)


def lambda_handler(app: ASGI) -> Handler:
    """The Lambda handler of a buffered group: one REST event in, the app's whole answer out, no lifespan. An answer
    that Lambda would not take (it makes a 502 of it) is a 413 that says what to do.

    All invocations share one event loop, so that a connection which one of them opened serves the next. It is
    not asyncio's "current" loop, which Mangum's own handler asks for: that is deprecated.
    """

    def handler(event: Any, context: LambdaContext) -> dict[str, Any]:
        request = Request(event, context)
        cycle = HTTPCycle(request.scope, request.body)
        _loop().run_until_complete(cycle.run(app))
        reply = request({"status": cycle.status, "headers": cycle.headers, "body": cycle.body})
        return reply if _fits(reply) else _refusal(request, cycle)

    return handler


def _fits(reply: dict[str, Any]) -> bool:
    """Whether Lambda takes a reply: its body is a JSON string in it, where some characters take two bytes."""
    body: str = reply["body"]
    if len(body) < MAX_REPLY_BYTES // 8:
        return True
    escaped = sum(body.count(character) for character in '"\\\n\r\t')
    return len(body.encode()) + escaped <= MAX_REPLY_BYTES


def _refusal(request: Request, cycle: HTTPCycle) -> dict[str, Any]:
    """The reply in place of one that is too large."""
    from gateway.errors import PayloadTooLarge  # noqa: PLC0415 - the streaming runtime does without
    from gateway.http.edge import body_of  # noqa: PLC0415

    given = dict(cycle.headers)
    error = PayloadTooLarge("The answer is larger than 6 MB. Ask for fewer rows, or for a shorter time.")
    body = body_of(error, given.get(b"x-request-id", b"").decode())
    headers = [[name, value] for name, value in cycle.headers if name not in (b"content-length", b"content-type")]
    headers += [[b"content-type", b"application/json"], [b"content-length", str(len(body)).encode()]]
    return request({"status": error.status, "headers": headers, "body": body})


@cache
def _loop() -> asyncio.AbstractEventLoop:
    return asyncio.new_event_loop()


def _bytes(text: str) -> bytes:
    return text.encode(errors="replace")
