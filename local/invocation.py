"""An event on its way through a function, and what becomes of it."""

from __future__ import annotations

import asyncio
import json
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


THROTTLED = "TooManyRequestsException"


class FunctionError(Exception):
    """A function failed: the error that Lambda tells whoever invoked it."""

    @classmethod
    def throttled(cls) -> FunctionError:
        """What Lambda says when a function has no concurrency left: it was not invoked."""
        return cls(THROTTLED, "Rate Exceeded.")

    @property
    def is_throttle(self) -> bool:
        return self.kind == THROTTLED

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(f"{kind}: {message}")
        self.kind, self.message = kind, message

    @classmethod
    def parse(cls, kind: str, report: bytes) -> FunctionError:
        """The error in a runtime's report; `kind` is what its header says."""
        try:
            told = json.loads(report)
            return cls(told.get("errorType") or kind, told.get("errorMessage") or "")
        except (ValueError, AttributeError):
            return cls(kind, "the runtime reported no JSON object")

    def body(self) -> bytes:
        """The error as an invoker reads it."""
        return json.dumps({"errorType": self.kind, "errorMessage": self.message}).encode()


@dataclass(eq=False)
class Invocation:
    """An event for a function, and the response that comes back in chunks."""

    event: bytes
    id: str = field(default_factory=lambda: str(uuid.uuid4()))
    ended: bool = False
    on_end: Callable[[FunctionError | None], None] | None = None
    """Hears how it ended, once."""
    _chunks: asyncio.Queue[bytes | FunctionError | None] = field(default_factory=asyncio.Queue)

    def add(self, chunk: bytes) -> None:
        """Pass on a part of the response."""
        self._chunks.put_nowait(chunk)

    def end(self, error: FunctionError | None = None) -> None:
        """End the response, whole or broken. The first end counts."""
        if not self.ended:
            self.ended = True
            if self.on_end:
                self.on_end(error)
            self._chunks.put_nowait(error)

    async def chunks(self) -> AsyncIterator[bytes]:
        """The response as it comes. Raises FunctionError where it broke."""
        while (chunk := await self._chunks.get()) is not None:
            if isinstance(chunk, FunctionError):
                raise chunk
            yield chunk

    async def payload(self) -> bytes:
        """The whole response. Raises FunctionError."""
        return b"".join([chunk async for chunk in self.chunks()])
