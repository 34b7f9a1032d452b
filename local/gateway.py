"""API Gateway's REST API in front of local functions: its routing, its answers and its own errors.

https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html
"""

from __future__ import annotations

import asyncio
import base64
import json
import re
import uuid
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from local.invocation import FunctionError
from local.rest_event import rest_event

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from local.invocation import Invocation
    from local.metrics import Metrics
    from local.template import Route, Template
    from local.wire import Connection

BODY_BYTES = 10 * 1024 * 1024
FRAMING = {"connection", "content-length", "transfer-encoding"}
DELIMITER = bytes(8)
"""Between the metadata of a streamed response and its body."""
UNSPOKEN = '{"message":$context.error.messageString}'
"""What API Gateway answers when the template has no words for a refusal."""
NO_ROUTE = ("MISSING_AUTHENTICATION_TOKEN", 403, "Missing Authentication Token")
TOO_LARGE = ("REQUEST_TOO_LARGE", 413, "Request Too Long")
FAILED = ("API_CONFIGURATION_ERROR", 502, "Internal server error")
THROTTLED = ("INTEGRATION_FAILURE", 500, "Internal server error")
TIMED_OUT = ("INTEGRATION_TIMEOUT", 504, "Endpoint request timed out")


class Refusal(Exception):
    """An answer of API Gateway's own: the type that a template may override, status and message."""

    def __init__(self, kind: str, status: int, message: str) -> None:
        super().__init__(message)
        self.kind, self.status, self.message = kind, status, message


class MalformedResponse(Exception):
    """A function answered in another format than API Gateway's."""


class RestApi:
    """The routes of a template; `invoke` runs a function, `log` hears why one failed, `metrics` how it was answered."""

    def __init__(
        self,
        template: Template,
        invoke: Callable[[str, bytes], Invocation],
        log: Callable[[str, str], None],
        metrics: Metrics,
    ) -> None:
        self._template, self._invoke, self._log, self._metrics = template, invoke, log, metrics
        self._routes = {(route.path, route.method): route for route in template.routes}
        paths = sorted({route.path for route in template.routes}, key=_rank)
        self._resources = [(path, _pattern(path)) for path in paths]

    async def handle(self, connection: Connection) -> None:
        """Answer one request of a client."""
        request_id = str(uuid.uuid4())
        try:
            body = await _body(connection)
            route, parameters = self._match(connection)
            event = rest_event(connection, body, route.path, parameters, request_id)
            async with asyncio.timeout(route.timeout_s):
                await self._serve(connection, route, json.dumps(event).encode())
        except Refusal as refusal:
            await self._refuse(connection, refusal, request_id)
        except TimeoutError:
            await self._refuse(connection, Refusal(*TIMED_OUT), request_id)
        finally:
            self._measure(connection.status)

    def _measure(self, status: int | None) -> None:
        """Errors are measured for each request, as 0 or 1, so that their average is their share."""
        dimensions = {"ApiName": self._template.api_name, "Stage": self._template.stage_name}
        for name, counted in (("Count", True), ("4XXError", _is(status, 400)), ("5XXError", _is(status, 500))):
            self._metrics.put("AWS/ApiGateway", name, dimensions, int(counted))

    def _match(self, connection: Connection) -> tuple[Route, dict[str, str]]:
        path = connection.target.partition("?")[0].rstrip("/") or "/"
        for resource, pattern in self._resources:
            if match := pattern.fullmatch(path):
                for method in (connection.method, "ANY"):
                    if route := self._routes.get((resource, method)):
                        return route, {name: unquote(value) for name, value in match.groupdict().items()}
                break
        raise Refusal(*NO_ROUTE)

    async def _serve(self, connection: Connection, route: Route, event: bytes) -> None:
        invocation = self._invoke(route.function, event)
        try:
            if route.streams:
                await _stream(connection, invocation)
            else:
                await _reply(connection, await invocation.payload(), self._template.binary_types)
        except (FunctionError, MalformedResponse) as error:
            self._log(route.function, str(error))
            raise Refusal(*(THROTTLED if isinstance(error, FunctionError) and error.is_throttle else FAILED)) from error

    async def _refuse(self, connection: Connection, refusal: Refusal, request_id: str) -> None:
        """Answer in the template's words. A response that has begun is cut instead, before its last chunk."""
        if connection.begun:
            raise ConnectionAbortedError
        responses = self._template.gateway_responses
        default = "DEFAULT_5XX" if refusal.status >= 500 else "DEFAULT_4XX"
        words: Mapping[str, Any] = responses.get(refusal.kind) or responses.get(default) or {}
        context = {
            "context.requestId": request_id,
            "context.error.message": refusal.message,
            "context.error.messageString": json.dumps(refusal.message),
            "context.error.responseType": refusal.kind,
        }
        body = words.get("ResponseTemplates", {}).get("application/json", UNSPOKEN)
        body = re.sub(r"\$(context(?:\.\w+)+)", lambda match: context.get(match[1], ""), body)
        headers = [("content-type", "application/json"), ("x-amzn-requestid", request_id)]
        for name, source in words.get("ResponseParameters", {}).get("Headers", {}).items():
            headers.append((name, source.strip("'") if source.startswith("'") else context.get(source, "")))
        await connection.respond(int(words.get("StatusCode", refusal.status)), body.encode(), headers)


def _is(status: int | None, hundreds: int) -> bool:
    return status is not None and hundreds <= status < hundreds + 100


def _rank(path: str) -> list[tuple[int, str]]:
    """Sorts the more specific resource first: at each segment a word, then a parameter, then a greedy one."""
    return [(2 if part.endswith("+}") else 1 if part.startswith("{") else 0, part) for part in path.split("/")]


def _pattern(path: str) -> re.Pattern[str]:
    parts = re.split(r"({\w+\+?})", path)
    regexes = (f"(?P<{part.strip('{+}')}>{'.+' if '+' in part else '[^/]+'})" for part in parts[1::2])
    literals = (re.escape(part) for part in parts[0::2])
    return re.compile("".join(literal + next(regexes, "") for literal in literals))


async def _body(connection: Connection) -> bytes:
    body = await connection.body()
    if len(body) > BODY_BYTES:
        raise Refusal(*TOO_LARGE)
    return body


async def _stream(connection: Connection, invocation: Invocation) -> None:
    """Pass on a streamed response as it comes. Raises MalformedResponse and FunctionError."""
    head = b""
    async for chunk in invocation.chunks():
        rest = chunk
        if not connection.begun:
            metadata, delimiter, rest = (head := head + chunk).partition(DELIMITER)
            if not delimiter:
                continue
            await connection.start(*_metadata(metadata))
        if rest:
            await connection.write(rest)
    if not connection.begun:
        raise MalformedResponse("the response has no metadata, as one that is not streamed")
    await connection.end()


async def _reply(connection: Connection, payload: bytes, binary_types: Iterable[str]) -> None:
    """Send a buffered response. Raises MalformedResponse."""
    status, headers = _metadata(payload)
    reply = json.loads(payload)
    body = (reply.get("body") or "").encode()
    kind = next((value for name, value in headers if name.lower() == "content-type"), "application/json")
    if reply.get("isBase64Encoded") and {"*/*", "*~1*", kind} & set(binary_types):
        body = base64.b64decode(body)
    await connection.respond(status, body, headers)


def _metadata(text: bytes) -> tuple[int, list[tuple[str, str]]]:
    try:
        told = json.loads(text)
        headers = [(name, str(value)) for name, value in (told.get("headers") or {}).items()]
        for name, values in (told.get("multiValueHeaders") or {}).items():
            headers += [(name, str(value)) for value in values]
        headers += [("set-cookie", cookie) for cookie in told.get("cookies") or ()]
        return int(told["statusCode"]), [line for line in headers if line[0].lower() not in FRAMING]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise MalformedResponse(f"the response is not in API Gateway's format: {error!r}") from error
