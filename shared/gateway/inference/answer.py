"""An answer to an admitted call: it is settled once, whatever becomes of it, and what is asked for is kept."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Literal

from gateway import credits, settlements, telemetry
from gateway.credits import Offer
from gateway.errors import GatewayError, ProviderError, ProviderKeyRefused
from gateway.inference.bill import Bill
from gateway.inference.report import report
from gateway.inference.transcript import Transcript
from gateway.settlements import Settlement

REMEMBER_S = 5.0
"""An answer's last byte waits this long for what is to be kept of it."""

KEPT = ("role", "content", "tool_calls")
"""Members of a message that a session keeps."""

type Outcome = Literal["completed", "cut", "cancelled"]


class Answer:
    """The answer to an admitted call: a `body`, or `events()`; and `close()`, always, once the last byte has left."""

    body: bytes | None = None

    def __init__(self, bill: Bill) -> None:
        self.bill = bill
        self._transcript = Transcript(keep=False)
        self._outcome: Outcome = "cancelled"
        self._whole: bytes | None = None
        self._is_settled = False
        self._message: dict[str, Any] | None = None
        """What the assistant said, where a session keeps it."""

    async def begin(self) -> None:
        """Ask the providers. Raises the refusal that the client is shown as a status."""

    def events(self) -> AsyncIterator[bytes]:
        """The stream as the client reads it: chunks, at most one error event, `[DONE]`."""
        raise NotImplementedError

    @property
    def begun(self) -> bool:
        """Whether a token has come, so that it costs something."""
        return self._transcript.begun

    async def close(self) -> None:
        """Settle what the answer cost, or give the hold back when nothing came of it: to the end, whatever happens."""
        await to_the_end(self._close())

    async def _close(self) -> None:
        if not self._is_settled:
            await self._settle()
            self._is_settled = True
        await report(self.bill, self._outcome, self._transcript.finish_reason)

    async def _settle(self) -> None:
        transcript = self._transcript
        if self.bill.usage is None and transcript.begun:
            has_left = self._outcome == "cancelled"
            self.bill.charge_transcript(transcript, transcript.seen_chunks, has_left=has_left)
        if self.bill.usage is None:
            await credits.release(self.bill.hold, self.bill.failure())
        else:
            await credits.settle(self._settlement())

    def _settlement(self) -> Settlement:
        return self.bill.settlement(self._outcome, self._transcript, self._whole, self._memory())

    async def _remember(self) -> None:
        """Settle what is to be kept before the last byte leaves: who has an answer may follow it at once. Where that
        fails, or takes too long, the last byte leaves and `close` settles it.
        """
        if self._memory() is not None:
            await to_the_end(self._book())

    async def _book(self) -> None:
        try:
            async with asyncio.timeout(REMEMBER_S):
                await settlements.book(self._settlement())
        except Exception as error:  # noqa: BLE001 - it counts once, so `close` may begin again
            telemetry.failure("remembered_late", error, generation=self.bill.id)
        else:
            self._is_settled = True

    def _memory(self) -> dict[str, Any] | None:
        """What the caller asked to be kept."""
        bill, turn = self.bill, self.bill.call.turn
        memory = bill.call.dialect.memory()
        if turn is None or self._message is None or bill.offer is None or self._outcome != "completed":
            return memory
        used = {"tokens": bill.usage.completion if bill.usage else 0}
        said = [*turn.messages, {name: self._message.get(name) for name in KEPT} | used]
        kept = {"session_id": turn.session_id, "model": bill.offer.model, "messages": said}
        return {**(memory or {}), "turn": kept}

    def _failed(self, offer: Offer, error: GatewayError) -> GatewayError:
        """Note that an offer failed; what its caller is told if it was the last."""
        if offer.sealed is not None and isinstance(error, ProviderError) and error.key_refused:
            error = ProviderKeyRefused(provider=offer.provider)
        self.bill.fail(offer, error)
        telemetry.log(
            "attempt_failed", level="WARNING", metrics={"AttemptsFailed": 1}, dimensions={"Provider": offer.provider},
            provider=offer.provider, model=offer.model, code=error.code,
        )  # fmt: skip
        return error


async def to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Cancellation waits until the work is done: an unshielded settlement was lost 80 times of 80 when clients left."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()
