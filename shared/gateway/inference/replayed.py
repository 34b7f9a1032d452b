"""The answer that was given before, to a request that comes again under its Idempotency-Key."""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from gateway.credits import Replay
from gateway.inference import replay
from gateway.inference.answer import Answer
from gateway.inference.bill import Bill


class Replayed(Answer):
    """The answer that a request with the same Idempotency-Key got before; nothing is asked and nothing is charged."""

    def __init__(self, bill: Bill, kept: Replay) -> None:
        super().__init__(bill)
        bill.id = f"gen-{kept.hold_id}"
        self._kept = msgspec.json.decode(kept.answer)
        if not bill.call.request.stream:
            told = bill.call.dialect.whole(self._kept)
            self.body = kept.answer.encode() if told is self._kept else msgspec.json.encode(told)

    async def events(self) -> AsyncIterator[bytes]:
        dialect, include_usage = self.bill.call.dialect, self.bill.call.request.include_usage
        for chunk in replay.chunks(self._kept, include_usage=include_usage):
            yield dialect.chunk(chunk)
        yield dialect.end(replay.identity(self._kept, include_usage=include_usage), self._kept["usage"])

    async def _close(self) -> None:
        """There is nothing to settle."""
