"""One exchange with one provider: the request in its form, the answer whole or chunk by chunk, its failures as ours.

What a failure means for the caller:

    429                              ProviderRateLimited    the next provider is asked
    408, 5xx, cut, garbage, silence  ProviderError/Timeout  the next provider is asked
    401, 402, 403, 404               ProviderError          ours to mend, not the caller's (unless the key is the
                                                            caller's own): the next provider is asked
    400, 409, 413, 422               InvalidRequest         the caller's to mend: nobody else is asked

A provider's own words never reach the caller: they can hold our keys, other people's data, or nothing true.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from datetime import UTC, datetime
from decimal import ROUND_CEILING, Decimal, InvalidOperation, localcontext
from email.utils import parsedate_to_datetime
from typing import Any, Literal

import msgspec
from yarl import URL

from gateway import outbound, sse, telemetry
from gateway.errors import (
    ContextLengthExceeded,
    GatewayError,
    InvalidRequest,
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
)
from gateway.money import MAX_NANO, MILLION, NANO
from gateway.outbound import Reply

KEEP_ALIVE_S = 15.0
"""After this long without an event a stream yields None, so that its reader can keep the client's connection alive."""
IDLE_S = 120.0
"""After this long without a byte a stream is given up."""
TOTAL_S = 600.0
"""After this long an answer is given up, by however many providers it was tried (OpenAI's SDKs wait 600 s)."""
DONE_S = 2.0
"""After each choice's finish_reason and the usage a stream is read for this long, for its `[DONE]`."""
USAGE_S = 10.0
"""After each choice's finish_reason a stream is read for this long, for its usage."""
MAX_BODY_BYTES = 32 << 20
MAX_STREAM_BYTES = 64 << 20
"""An event is up to a hundred times as long as its token."""
MAX_ERROR_BYTES = 64 << 10
MAX_RETRY_AFTER_S = 120

CHAT, EMBEDDINGS, IMAGES = "chat/completions", "embeddings", "images/generations"
"""The routes of OpenAI's API that are asked."""

CEILINGS = ("max_tokens", "max_completion_tokens")
"""The two names that OpenAI's API has for the most tokens of an answer, per choice."""

FAILOVER = (ProviderError, ProviderRateLimited)
"""What makes another provider worth asking."""


class Listing(msgspec.Struct, frozen=True):
    """One entry of a provider's catalogue. Prices are nano-dollars per million tokens; None is not known."""

    upstream_id: str
    name: str
    context_length: int | None
    max_output_tokens: int | None
    prompt_price: int | None
    completion_price: int | None


class Provider:
    """A provider reached over HTTP in OpenAI's form. Adapters set what differs: address, headers, body, catalogue."""

    name: str
    ceiling: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """The one of CEILINGS that it takes."""

    def __init__(self, base_url: str, headers: Mapping[str, str]) -> None:
        self.urls = {route: URL(f"{base_url.rstrip('/')}/{route}") for route in (CHAT, EMBEDDINGS, IMAGES)}
        self.catalogue_url = URL(f"{base_url.rstrip('/')}/models")
        self.headers = {"content-type": "application/json", "accept-encoding": "identity", **headers}

    def adapt(self, body: dict[str, Any]) -> dict[str, Any]:
        """A chat completion's body in this provider's form."""
        return body

    def listings(self, catalogue: Any) -> list[Listing]:
        """The entries of this provider's decoded `GET /models` answer."""
        raise NotImplementedError

    async def send(self, body: dict[str, Any], route: str = CHAT) -> Reply:
        """Start an exchange; returns when the answer's headers are here. Raises ProviderError."""
        own = self.adapt(body) if route == CHAT else body
        request = telemetry.serving()
        headers = self.headers | request.trace.headers() if request else self.headers
        return await outbound.post(self.urls[route], headers, msgspec.json.encode(own))

    async def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """A whole chat completion. Raises FAILOVER errors and InvalidRequest."""
        completion = await self._answered(body, CHAT)
        choices = completion.get("choices")
        if not choices or not all(isinstance(choice.get("message"), dict) for choice in choices):
            raise ProviderError("The provider sent an answer without a message.")
        return completion

    async def embed(self, body: dict[str, Any]) -> dict[str, Any]:
        """The embeddings of a text or texts, `data` being objects. Raises FAILOVER errors and InvalidRequest."""
        return _listing(await self._answered(body, EMBEDDINGS))

    async def draw(self, body: dict[str, Any]) -> dict[str, Any]:
        """Images, `data` being objects. Raises FAILOVER errors and InvalidRequest."""
        return _listing(await self._answered(body, IMAGES))

    async def _answered(self, body: dict[str, Any], route: str) -> dict[str, Any]:
        try:
            async with asyncio.timeout(TOTAL_S):
                reply = await self.send(body, route)
                try:
                    data = await _whole(reply, MAX_BODY_BYTES)
                    if reply.status != 200:
                        raise failure(reply.status, reply.headers, data)
                finally:
                    reply.close()
        except TimeoutError:
            raise ProviderTimeout from None
        return decode(data)

    async def stream(self, body: dict[str, Any], deadline: float = math.inf) -> AsyncGenerator[dict[str, Any] | None]:
        """The chunks of a streamed completion, and None for each KEEP_ALIVE_S in which there was none.

        An answer is whole when `[DONE]` or every choice's finish_reason came; it ends soon after the latter. `deadline`
        is one of time.monotonic. Raises FAILOVER errors (also for one that is not whole) and InvalidRequest.
        """
        began = time.monotonic()
        end = _End(min(deadline, began + TOTAL_S), body.get("n") or 1)
        try:
            async with asyncio.timeout(min(IDLE_S, end.until - began)):
                reply = await self.send(body)
        except TimeoutError:
            raise ProviderTimeout from None
        try:
            if reply.status != 200:
                async with asyncio.timeout(IDLE_S):
                    raise failure(reply.status, reply.headers, await _whole(reply, MAX_ERROR_BYTES))
            async with aclosing(_events(reply, end)) as events:
                async for payload in events:
                    chunk = None if payload is None else decode(payload)
                    if chunk is not None:
                        end.note(chunk)
                    yield chunk
        except ProviderError:
            # what fails after the last finish_reason takes nothing from the answer
            if end.unfinished:
                raise
        except TimeoutError:
            raise ProviderTimeout from None
        finally:
            reply.close()


class _End:
    """When a stream is over: `until`, by time.monotonic, which comes near as soon as every choice has ended."""

    __slots__ = ("_has_usage", "unfinished", "until")

    def __init__(self, until: float, choices: int) -> None:
        self.until, self.unfinished, self._has_usage = until, list(range(choices)), False

    def note(self, chunk: dict[str, Any]) -> None:
        if ended := _ended(chunk):
            self.unfinished = [index for index in self.unfinished if index not in ended]
        self._has_usage = self._has_usage or chunk.get("usage") is not None
        if not self.unfinished:
            self.until = min(self.until, time.monotonic() + (DONE_S if self._has_usage else USAGE_S))


def _listing(answer: dict[str, Any]) -> dict[str, Any]:
    data = answer.get("data")
    if not isinstance(data, list) or not data or not all(isinstance(entry, dict) for entry in data):
        raise ProviderError("The provider sent an answer without data.")
    return answer


async def _events(reply: Reply, end: _End) -> AsyncGenerator[bytes | None]:
    """The payloads of a reply's events up to `[DONE]`, and None for each KEEP_ALIVE_S without one."""
    parser, size = sse.Events(), 0
    heard = told = now = time.monotonic()
    while now < end.until and now - heard < IDLE_S:
        data = await reply.read(max(0.0, min(told + KEEP_ALIVE_S, heard + IDLE_S, end.until) - now))
        now = time.monotonic()
        payloads: list[bytes] = []
        if data is not None:
            heard, size = now, size + len(data)
            payloads = parser.feed(data) if data else parser.end()
        if size > MAX_STREAM_BYTES:
            raise ProviderError("The provider's answer is too large.")
        for payload in payloads:
            if payload == sse.DONE:
                return
            told = now
            yield payload
        if data == b"":
            raise ProviderError("The provider broke off its answer.")
        if now - told >= KEEP_ALIVE_S:
            told = now
            yield None
    raise ProviderTimeout


def _ended(chunk: dict[str, Any]) -> list[Any]:
    """The indexes of the choices that end with this chunk."""
    choices = chunk.get("choices") or ()
    return [choice.get("index", position) for position, choice in enumerate(choices) if choice.get("finish_reason")]


async def _whole(reply: Reply, limit: int) -> bytes:
    parts: list[bytes] = []
    size = 0
    while (data := await reply.read(KEEP_ALIVE_S)) != b"":
        size += len(data or b"")
        if size > limit:
            raise ProviderError("The provider's answer is too large.")
        parts.append(data or b"")
    return b"".join(parts)


def decode(payload: bytes) -> dict[str, Any]:
    """A completion or chunk, whose choices are objects if it has any. Raises ProviderError when it is not JSON, nothing
    of that kind, or an error in disguise.
    """
    try:
        value = msgspec.json.decode(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ProviderError("The provider sent something that is not JSON.") from error
    if not isinstance(value, dict):
        raise ProviderError("The provider sent something that is not a completion.")
    if reported := value.get("error"):
        code = reported.get("code") if isinstance(reported, dict) else None
        raise failure(code if isinstance(code, int) and 400 <= code < 600 else 502, {}, payload)
    choices = value.get("choices")
    if choices and not (isinstance(choices, list) and all(isinstance(choice, dict) for choice in choices)):
        raise ProviderError("The provider sent something that is not a completion.")
    return value


def failure(status: int, headers: Mapping[str, str], body: bytes) -> GatewayError:
    """What a provider's refusal means to the caller. `body` is only looked at, never shown."""
    if status == 429:
        return ProviderRateLimited(retry_after_ms=retry_after_ms(headers), scope="upstream")
    if status in (400, 409, 413, 422):
        if b"context_length" in body or b"maximum context" in body:
            return ContextLengthExceeded(provider_code="context_length_exceeded")
        return InvalidRequest("The provider refused this request as not valid.", provider_code=str(status))
    if status in (408, 504):
        return ProviderTimeout()
    error = ProviderError(retry_after_ms=retry_after_ms(headers) if status == 503 else None)
    error.key_refused = status in (401, 402, 403)
    return error


def retry_after_ms(headers: Mapping[str, str]) -> int:
    """`Retry-After` in milliseconds (RFC 9110 10.2.3: seconds or a date), 1 to 120 s; 5 s without one."""
    value = headers.get("retry-after", "")
    if value.isascii() and value.isdigit():
        seconds = float(value[:9])
    else:
        try:
            seconds = (parsedate_to_datetime(value) - datetime.now(UTC)).total_seconds()
        except (ValueError, TypeError, OverflowError):
            seconds = 5.0
    return int(1000 * min(max(seconds, 1.0), MAX_RETRY_AFTER_S))


def price(dollars: Any, *, tokens: int) -> int | None:
    """A catalogue's price (a decimal string or JSON number of dollars for so many tokens) in nano-dollars per million
    tokens, rounded up. None when it says none: missing, negative (it varies), absurd, or no number.
    """
    try:
        value = Decimal(str(dollars))
    except InvalidOperation:
        return None
    if not value.is_finite() or not 0 <= value < MILLION:
        return None
    with localcontext(prec=60):
        nano = int((value * NANO * MILLION / tokens).to_integral_value(ROUND_CEILING))
    return nano if nano <= MAX_NANO else None
