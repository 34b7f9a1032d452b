"""Server-sent events: bytes to payloads, payloads to bytes (WHATWG HTML 9.2, the part that OpenAI's streams use)."""

from __future__ import annotations

from gateway.errors import ProviderError

MAX_EVENT_BYTES = 1 << 20
DONE = b"[DONE]"
KEEP_ALIVE = b": keep-alive\n\n"
BOM = b"\xef\xbb\xbf"


class Events:
    """An incremental parser: feed bytes as they arrive, cut anywhere, and get the `data` of each event that they
    complete.

    Comments and other fields are dropped; CR, LF and CRLF end lines; a byte order mark may come first. Raises
    ProviderError above MAX_EVENT_BYTES.
    """

    __slots__ = ("_after_cr", "_begun", "_tail")

    def __init__(self) -> None:
        self._tail = b""
        self._begun = self._after_cr = False

    def feed(self, data: bytes) -> list[bytes]:
        if self._after_cr and data:
            # the CR has ended its line already; the LF that makes it a CRLF ends none
            data, self._after_cr = data.removeprefix(b"\n"), False
        if b"\r" in data:
            self._after_cr = data.endswith(b"\r")
            data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *blocks, self._tail = (self._tail + data).split(b"\n\n")
        if len(self._tail) > MAX_EVENT_BYTES or any(len(block) > MAX_EVENT_BYTES for block in blocks):
            raise ProviderError("The provider sent an event that is too long.")
        return self._payloads(blocks)

    def end(self) -> list[bytes]:
        """The last event, when the stream ended without the blank line that should close it."""
        tail, self._tail = self._tail, b""
        return self._payloads([tail.removesuffix(b"\n")])

    def _payloads(self, blocks: list[bytes]) -> list[bytes]:
        if blocks and not self._begun:
            blocks[0], self._begun = blocks[0].removeprefix(BOM), True
        return [payload for block in blocks if (payload := _data(block)) is not None]


def _data(block: bytes) -> bytes | None:
    if block.startswith(b"data: ") and b"\n" not in block:
        return block[6:]
    lines = [line[5:].removeprefix(b" ") for line in block.split(b"\n") if line.startswith(b"data:") or line == b"data"]
    return b"\n".join(lines) if lines else None


def event(payload: bytes) -> bytes:
    """One event with this payload, which has no line break."""
    return b"data: " + payload + b"\n\n"


def named(name: str, payload: bytes) -> bytes:
    """One event with a name, as the Responses and Messages APIs have them."""
    return b"event: " + name.encode() + b"\n" + event(payload)
