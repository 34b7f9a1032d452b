"""Where a request stands in its caller's trace: W3C's trace context, taken from the caller and passed on to providers.

https://www.w3.org/TR/trace-context/
"""

from __future__ import annotations

import re
import secrets

import msgspec

TRACEPARENT = re.compile(r"(?!ff)[0-9a-f]{2}-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
MAX_STATE = 512
"""Characters of a tracestate that are passed on, the least that the standard asks for."""


class Trace(msgspec.Struct, frozen=True):
    """A request's own span in a trace; ids in hex."""

    trace_id: str
    span_id: str
    parent_id: str | None = None
    is_sampled: bool = True
    state: str = ""

    def headers(self) -> dict[str, str]:
        """What the next one along is sent."""
        sent = {"traceparent": f"00-{self.trace_id}-{self.span_id}-{'01' if self.is_sampled else '00'}"}
        return {**sent, "tracestate": self.state} if self.state else sent


def trace_of(traceparent: str | None, tracestate: str | None = None) -> Trace:
    """A new span in the trace that a request names; in a trace of its own when it names none, or not as W3C says."""
    span_id = secrets.token_hex(8)
    found = TRACEPARENT.fullmatch(traceparent) if traceparent and len(traceparent) <= MAX_STATE else None
    # version 00 ends after its flags, and ids of zeros are none
    if not found or (found[4] and found[0].startswith("00")) or not (int(found[1], 16) and int(found[2], 16)):
        return Trace(secrets.token_hex(16), span_id)
    state = tracestate if tracestate and len(tracestate) <= MAX_STATE and tracestate.isprintable() else ""
    return Trace(found[1], span_id, found[2], bool(int(found[3], 16) & 1), state)
