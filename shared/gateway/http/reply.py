"""The one code that knows when an inference answer has left: it sends, and closes the answer whatever happened."""

from __future__ import annotations

import asyncio
import time
from collections.abc import MutableMapping
from typing import Any

from gateway import telemetry
from gateway.http.edge import Receive, Send
from gateway.inference.answer import Answer
from gateway.inference.receipt import receipt
from gateway.inference.replayed import Replayed

SEND_S = 30.0
"""A client that takes nothing for this long is left; at most twice as long may pass until that is seen."""
READ_ON_S = 30.0
"""An answer that has begun and whose client has left is read on for this long: the usage comes at its end."""
ANSWER_S = 660.0
"""No answer takes longer to be sent: its hold lives longer than this."""


class Reply:
    """An answer as an ASGI response. A stream whose client leaves, or stops reading, is settled where that can be seen
    (not in Lambda).
    """

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._sent = 0
        self._is_sending = self._has_left = False

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
        until = time.monotonic() + ANSWER_S
        try:
            await self._is_read(sending, leaving, until)
            if not sending.done() and self._answer.begun and time.monotonic() <= until:
                self._leave(sending)
                await asyncio.wait({sending}, timeout=READ_ON_S)
        finally:
            leaving.cancel()
            sending.cancel()
            await asyncio.wait({sending, leaving})
        if not sending.cancelled():
            sending.result()

    def _leave(self, sending: asyncio.Future[None]) -> None:
        """Send nothing more, not even what a client does not take: the rest of the answer is only read."""
        self._has_left = True
        if self._is_sending:
            sending.cancel()

    async def _is_read(self, sending: asyncio.Future[None], leaving: asyncio.Future[None], until: float) -> None:
        """Wait until all is sent, or the client has left, stopped reading or takes too long. Looks at each SEND_S
        instead of timing every message: a stream has thousands of them.
        """
        while True:
            sent = self._sent
            done, _ = await asyncio.wait({sending, leaving}, timeout=SEND_S, return_when=asyncio.FIRST_COMPLETED)
            if done:
                return
            if (self._is_sending and self._sent == sent) or time.monotonic() > until:
                telemetry.log("reader_stopped", generation=self._answer.bill.id)
                return

    async def _send_events(self, send: Send) -> None:
        await self._send(send, self._start("text/event-stream; charset=utf-8", {"x-accel-buffering": "no"}))
        async for event in self._answer.events():
            await self._send(send, {"type": "http.response.body", "body": event, "more_body": True})
        await self._send(send, {"type": "http.response.body", "body": b""})

    async def _send(self, send: Send, message: MutableMapping[str, Any]) -> None:
        if self._has_left:
            return
        self._is_sending = True
        try:
            await send(message)
        except asyncio.CancelledError:
            if not self._is_given_up():
                raise
        self._is_sending = False
        self._sent += 1

    def _is_given_up(self) -> bool:
        """Whether a send was cancelled by `_leave` alone, so that the answer is read on."""
        task = asyncio.current_task()
        return self._has_left and task is not None and task.uncancel() == 0

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
