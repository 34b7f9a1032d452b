"""The inference routes: HTTP to calls, and nothing else."""

from __future__ import annotations

import hashlib

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from gateway.errors import InvalidRequest
from gateway.http.bearer import address_of, key_of
from gateway.http.reply import Reply
from gateway.inference import completions, metering, quotes
from gateway.inference.bill import Call
from gateway.inference.requests import parse_completion
from gateway.money import parse

MAX_IDEMPOTENCY_KEY = 255


async def create_completion(request: Request) -> Reply:
    """Create a chat completion; streamed as server-sent events when `stream` is true."""
    return Reply(await completions.serve(await _call(request)))


async def create_quote(request: Request) -> Response:
    """Say what a completion with this body would cost, at most and likely, by whom; nothing is held or asked."""
    quoted = await quotes.quote(await _call(request))
    return Response(msgspec.json.encode(quoted), media_type="application/json")


async def _call(request: Request) -> Call:
    key = key_of(request)
    if request.headers.get("content-encoding", "identity") != "identity":
        raise InvalidRequest("Compressed bodies are not accepted.", param="Content-Encoding")
    raw = await request.body()
    wanted, body = parse_completion(raw)
    idempotency_key = _idempotency_key(request)
    return Call(
        key=key,
        ip=address_of(request),
        referer=request.headers.get("referer"),
        request=wanted,
        body=body,
        bounds=metering.bounds(wanted, len(raw)),
        max_cost_nano=_max_cost_nano(request),
        idempotency_key=idempotency_key,
        fingerprint=hashlib.sha256(raw).hexdigest() if idempotency_key else None,
    )


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= MAX_IDEMPOTENCY_KEY and key.isascii() and key.isprintable()):
        raise InvalidRequest("An Idempotency-Key has 1 to 255 printable ASCII characters.", param="Idempotency-Key")
    return key


def _max_cost_nano(request: Request) -> int | None:
    given = request.headers.get("x-max-cost-usd")
    try:
        return None if given is None else parse(given)
    except ValueError:
        raise InvalidRequest(
            "X-Max-Cost-Usd must be a non-negative number of dollars.", param="X-Max-Cost-Usd"
        ) from None


routes = [
    Route("/v1/chat/completions", create_completion, methods=["POST"]),
    Route("/v1/quote", create_quote, methods=["POST"]),
]
