"""The one code that knows when an inference answer has left: it sends, and closes the answer whatever happened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import MutableMapping
from typing import Any

from gateway import money
from gateway.credits import Level
from gateway.http.edge import Receive, Send
from gateway.inference.completions import Answer, Replayed


class Reply:
    """An answer as an ASGI response. A stream whose client leaves is stopped where that can be seen (not in Lambda)."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    async def __call__(self, _scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        try:
            if self._answer.body is None:
                await self._stream(receive, send)
            else:
                await send(self._start("application/json", {"content-length": str(len(self._answer.body))}))
                await send({"type": "http.response.body", "body": self._answer.body})
        finally:
            await self._answer.close()

    async def _stream(self, receive: Receive, send: Send) -> None:
        sending = asyncio.ensure_future(self._send_events(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            leaving.cancel()
            sending.cancel()
            await asyncio.wait({sending, leaving})
        if not sending.cancelled():
            sending.result()

    async def _send_events(self, send: Send) -> None:
        await send(self._start("text/event-stream; charset=utf-8", {"x-accel-buffering": "no"}))
        async for event in self._answer.events():
            await send({"type": "http.response.body", "body": event, "more_body": True})
        await send({"type": "http.response.body", "body": b""})

    def _start(self, content_type: str, extra: dict[str, str]) -> dict[str, Any]:
        headers = {"content-type": content_type, **extra, **_headers(self._answer)}
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        return {"type": "http.response.start", "status": 200, "headers": encoded}


async def _left(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _headers(answer: Answer) -> dict[str, str]:
    bill, hold = answer.bill, answer.bill.hold
    headers = {"x-generation-id": bill.id}
    headers |= _level("requests", hold.limits.requests) | _level("tokens", hold.limits.tokens)
    if requests := hold.limits.requests:
        headers["x-ratelimit-limit"] = str(requests.limit)
        headers["x-ratelimit-remaining"] = str(requests.remaining)
        headers["x-ratelimit-reset"] = str(int(time.time()) + -(-requests.reset_ms // 1000))
    if bill.served is not None:
        headers["x-gateway-provider"] = bill.served.provider
    if bill.usage is not None:
        headers["x-gateway-cost-usd"] = money.show(bill.cost_nano)
    if hold.max_tokens is not None:
        headers["x-gateway-max-tokens"] = str(hold.max_tokens)
    if isinstance(answer, Replayed):
        headers["x-idempotent-replay"] = "true"
    return headers


def _level(kind: str, level: Level | None) -> dict[str, str]:
    """OpenAI's headers of one limit; the reset is a duration."""
    if level is None:
        return {}
    return {
        f"x-ratelimit-limit-{kind}": str(level.limit),
        f"x-ratelimit-remaining-{kind}": str(level.remaining),
        f"x-ratelimit-reset-{kind}": _duration(level.reset_ms),
    }


def _duration(milliseconds: int) -> str:
    """As OpenAI writes it: 12ms, 1.2s, 6m0s."""
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    minutes, rest = divmod(milliseconds, 60_000)
    seconds = f"{rest / 1000:.3f}".rstrip("0").rstrip(".") + "s"
    return f"{minutes}m{seconds}" if minutes else seconds
