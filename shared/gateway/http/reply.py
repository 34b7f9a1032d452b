"""The one code that knows when an inference answer has left: it sends, and closes the answer whatever happened."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from typing import Any

from gateway.http.edge import Receive, Send
from gateway.inference.answer import Answer
from gateway.inference.receipt import receipt
from gateway.inference.replayed import Replayed


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

    def _receipt(self) -> dict[str, str]:
        replayed = {"x-idempotent-replay": "true"} if isinstance(self._answer, Replayed) else {}
        return receipt(self._answer.bill) | replayed

    def _start(self, content_type: str, extra: dict[str, str]) -> dict[str, Any]:
        headers = {"content-type": content_type, **extra, **self._receipt()}
        encoded = [(name.encode(), value.encode("latin-1")) for name, value in headers.items()]
        return {"type": "http.response.start", "status": 200, "headers": encoded}


async def _left(receive: Receive) -> None:
    """Returns when the client has gone away."""
    while (await receive())["type"] != "http.disconnect":
        pass
