"""A route's request as a call: its key, its options for the gateway, and what is asked of a model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import msgspec
from starlette.requests import Request

from gateway import chats, key_checks
from gateway.errors import InvalidRequest, PayloadTooLarge
from gateway.http.bearer import address_of, key_of
from gateway.http.parsing import parsed
from gateway.http.room import Share
from gateway.inference import metering
from gateway.inference.bill import Call, Dialect, Turn
from gateway.inference.chat import Chat
from gateway.inference.requests import OWN, CompletionRequest, ModelRequest, read
from gateway.keys import Key, parse
from gateway.money import parse as parse_money
from gateway.scopes import Scope

MAX_IDEMPOTENCY_KEY = 255
UNVERIFIED_BYTES = 256 << 10
"""The rest of a longer body is read only for a key that the database has verified."""
MAX_DIGITS = 18
"""Of a session's number."""
ANSWER_TOKENS = 1024
"""Left for the answer in a session where the request does not say how many."""
SAID = ("role", "content", "tool_calls", "tool_call_id")
KEPT_ROLES = frozenset({"user", "assistant", "tool"})
"""A client sends its system's words with every request: they are no turn."""


async def raw_body(request: Request, key: Key) -> bytes:
    """The body's bytes; of a large one more than the beginning is read only for a key that is valid.

    Raises InvalidRequest for a compressed body, and what the key's refusal is.
    """
    if request.headers.get("content-encoding", "identity") != "identity":
        raise InvalidRequest("Compressed bodies are not accepted.", param="Content-Encoding")
    share: Share = request.scope["share"]
    pieces, size, is_verified = [], 0, False
    async for piece in request.stream():
        pieces.append(piece)
        size += len(piece)
        if not is_verified and (size > UNVERIFIED_BYTES or share.is_pressed):
            await key_checks.check(key, address_of(request), request.headers.get("referer"), Scope.INFERENCE)
            share.verify()
            is_verified = True
    return b"".join(pieces)


async def read_body[T](request: Request, raw: bytes, parse: Callable[[bytes], T]) -> T:
    """What `parse` makes of a body. Raises what it raises, InvalidRequest and Overloaded (gateway.http.parsing)."""
    return await parsed(raw, request.scope["share"], parse)


def caller_of(request: Request) -> dict[str, Any]:
    """Who asks, as the database's functions take it."""
    credentials = key_of(request).credentials()
    return {**credentials, "ip": address_of(request), "referer": request.headers.get("referer")}


def anthropic_key_of(request: Request) -> Key:
    """The key of a request by Anthropic's SDK, which sends it as x-api-key. Raises Unauthenticated."""
    given = request.headers.getlist("x-api-key")
    if len(given) == 1 and "authorization" not in request.headers:
        return parse(given[0])
    return key_of(request)


def call_of(
    request: Request, wanted: ModelRequest, body: dict[str, Any], raw: bytes, key: Key | None = None, **more: Any
) -> Call:
    """The call of a request whose body was `raw`; `body` is what its provider is to get. Raises InvalidRequest."""
    idempotency_key = _idempotency_key(request)
    return Call(
        key=key or key_of(request),
        ip=address_of(request),
        referer=request.headers.get("referer"),
        request=wanted,
        body=body,
        max_cost_nano=_max_cost_nano(request),
        idempotency_key=idempotency_key,
        fingerprint=_fingerprint(request, raw) if idempotency_key else None,
        bounds=more.pop("bounds", None) or metering.bounds(wanted, len(raw)),
        **more,
    )


async def in_session(
    request: Request, wanted: CompletionRequest, body: dict[str, Any], raw: bytes, session_id: str
) -> Call:
    """The call of a completion in one of the caller's sessions: what was said there comes first, as far as it fits, and
    what is said now is kept there. Raises NotFound and InvalidRequest.
    """
    if not (session_id.isascii() and session_id.isdigit() and len(session_id) <= MAX_DIGITS):
        raise InvalidRequest("session_id must be the number of a session.", param="session_id")
    said = [{name: message.get(name) for name in SAID if name in message} for message in body["messages"]]
    turn = Turn(int(session_id), [message for message in said if message["role"] in KEPT_ROLES])
    sizes = [chats.kept_bytes(message) for message in turn.messages]
    if max(sizes, default=0) > chats.MOST_MESSAGE_BYTES:
        raise PayloadTooLarge(f"A message in a session has at most {chats.MOST_MESSAGE_BYTES} bytes.", param="messages")
    own = metering.bounds(wanted, len(raw)).likely_prompt_tokens + (wanted.asked_tokens or ANSWER_TOKENS)
    before = await chats.followed(int(session_id), wanted.wanted_models, own, sum(sizes), **caller_of(request))
    body = {**body, "messages": before + body["messages"]}
    bounds = metering.bounds(read(body, CompletionRequest), len(raw) + len(msgspec.json.encode(before)))
    dialect = Chat(include_usage=wanted.include_usage)
    return call_of(request, wanted, body, raw, bounds=bounds, dialect=dialect, turn=turn)


def translated(request: Request, chat: dict[str, Any], raw: bytes, dialect: Dialect, key: Key | None = None) -> Call:
    """The call of a request in another dialect than chat's, which asks for this completion. Raises InvalidRequest."""
    wanted = read(chat, CompletionRequest)
    for name in OWN:
        chat.pop(name, None)
    bounds = metering.bounds(wanted, len(msgspec.json.encode(chat)))
    return call_of(request, wanted, chat, raw, key, bounds=bounds, dialect=dialect)


def _fingerprint(request: Request, raw: bytes) -> str:
    """Of what was asked where; chat completions' is the body's alone."""
    digest = hashlib.sha256(raw)
    if request.url.path != "/v1/chat/completions" or request.url.query:
        digest.update(f"{request.url.path}?{request.url.query}".encode())
    return digest.hexdigest()


def _idempotency_key(request: Request) -> str | None:
    key = request.headers.get("idempotency-key")
    if key is not None and not (0 < len(key) <= MAX_IDEMPOTENCY_KEY and key.isascii() and key.isprintable()):
        raise InvalidRequest("An Idempotency-Key has 1 to 255 printable ASCII characters.", param="Idempotency-Key")
    return key


def _max_cost_nano(request: Request) -> int | None:
    given = request.headers.get("x-max-cost-usd")
    try:
        return None if given is None else parse_money(given)
    except ValueError:
        raise InvalidRequest(
            "X-Max-Cost-Usd must be a non-negative number of dollars.", param="X-Max-Cost-Usd"
        ) from None
