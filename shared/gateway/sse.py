"""Server-sent events: bytes to payloads, payloads to bytes (WHATWG HTML 9.2, the part that OpenAI's streams use)."""

from __future__ import annotations

from gateway.errors import ProviderError

MAX_EVENT_BYTES = 1 << 20
DONE = b"[DONE]"
KEEP_ALIVE = b": keep-alive\n\n"


class Events:
    """An incremental parser: feed bytes as they arrive, cut anywhere, and get the `data` of each event that they
    complete.

    Comments and other fields are dropped; CR, LF and CRLF end lines. Raises ProviderError above MAX_EVENT_BYTES.
    """

    __slots__ = ("_tail",)

    def __init__(self) -> None:
        self._tail = b""

    def feed(self, data: bytes) -> list[bytes]:
        buffer = self._tail + data if self._tail else data
        if b"\r" in buffer:
            # the LF of a CRLF may be still to come, so a CR at the very end waits for the next bytes
            waits = buffer.endswith(b"\r")
            buffer = buffer.removesuffix(b"\r").replace(b"\r\n", b"\n").replace(b"\r", b"\n") + b"\r" * waits
        *blocks, self._tail = buffer.split(b"\n\n")
        if len(self._tail) > MAX_EVENT_BYTES or any(len(block) > MAX_EVENT_BYTES for block in blocks):
            raise ProviderError("The provider sent an event that is too long.")
        return [payload for block in blocks if (payload := _data(block)) is not None]

    def end(self) -> list[bytes]:
        """The last event, when the stream ended without the blank line that should close it."""
        tail, self._tail = self._tail, b""
        payload = _data(tail.rstrip(b"\r\n"))
        return [] if payload is None else [payload]


def _data(block: bytes) -> bytes | None:
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:")]
    return b"\n".join(lines) if lines else None


def event(payload: bytes) -> bytes:
    """One event with this payload, which has no line break."""
    return b"data: " + payload + b"\n\n"
