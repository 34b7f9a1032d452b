"""W3C's trace context: what a caller names is taken as the standard says, and all else begins a trace."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.traces import MAX_STATE, trace_of

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
GOOD = f"00-{TRACE}-{PARENT}-01"


def test_a_caller_s_trace_is_gone_on_with_in_a_span_of_our_own():
    trace = trace_of(GOOD, "vendor=1,other=2")
    assert (trace.trace_id, trace.parent_id, trace.is_sampled) == (TRACE, PARENT, True)
    assert trace.span_id != PARENT
    assert trace.headers() == {"traceparent": f"00-{TRACE}-{trace.span_id}-01", "tracestate": "vendor=1,other=2"}


@pytest.mark.parametrize(("flags", "is_sampled"), [("00", False), ("01", True), ("02", False), ("ff", True)])
def test_who_is_not_sampled_stays_so(flags: str, *, is_sampled: bool):
    trace = trace_of(f"00-{TRACE}-{PARENT}-{flags}")
    assert trace.is_sampled == is_sampled
    assert trace.headers()["traceparent"].endswith("-01" if is_sampled else "-00")


def test_a_later_version_is_read_as_far_as_it_is_known():
    assert trace_of(f"cc-{TRACE}-{PARENT}-01-what-comes").trace_id == TRACE


@pytest.mark.parametrize(
    "given",
    [
        None, "", "x", GOOD.upper(), f"{GOOD}-more", f"ff-{TRACE}-{PARENT}-01", f"00-{'0' * 32}-{PARENT}-01",
        f"00-{TRACE}-{'0' * 16}-01", f"00-{TRACE[:-1]}-{PARENT}-01", f" {GOOD}", f"{GOOD}\n",
        f"cc-{TRACE}-{PARENT}-01-" + "x" * 500,
    ],
)  # fmt: skip
def test_what_is_malformed_begins_a_trace(given: str | None):
    trace = trace_of(given, "vendor=1")
    assert trace.trace_id != TRACE
    assert (trace.parent_id, trace.state) == (None, "")


@pytest.mark.parametrize("state", ["a" * (MAX_STATE + 1), "a=1\r\nx: y", None, ""])
def test_a_state_that_cannot_be_passed_on_is_left_out(state: str | None):
    trace = trace_of(GOOD, state)
    assert (trace.trace_id, list(trace.headers())) == (TRACE, ["traceparent"])


@given(st.text(max_size=80), st.text(max_size=600))
def test_whatever_comes_what_is_sent_on_is_well_formed(parent: str, state: str):
    sent = trace_of(parent, state).headers()
    assert trace_of(sent["traceparent"]).parent_id is not None
    assert all(value.isprintable() for value in sent.values())
