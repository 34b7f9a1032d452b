"""Server-sent events, against a reference that reads the standard's rules line by line."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gateway import sse
from gateway.errors import ProviderError

LINES = st.one_of(
    st.sampled_from(
        [b"", b"data", b"data:", b"data: ", b"data:  x", b"dat: x", b"data : x", b": waiting", b":", b"id: 7"]
    ),
    st.sampled_from([b"event: chunk", b"retry: 10", b"data: [DONE]", b"datax: 1", b"\xff\xfe"]),
    st.binary(max_size=12).map(lambda text: b"data: " + text.translate(None, b"\r\n")),
)
ENDS = st.sampled_from([b"\n", b"\r", b"\r\n"])
STREAMS = st.lists(st.tuples(LINES, ENDS), max_size=12).map(lambda lines: b"".join(map(b"".join, lines)))
CUTS = st.lists(st.integers(0, 200), max_size=12)


def reference(stream: bytes) -> list[bytes]:
    """WHATWG HTML 9.2.6, for `data` alone."""
    lines = stream.removeprefix(sse.BOM).replace(b"\r\n", b"\n").replace(b"\r", b"\n").split(b"\n")
    payloads: list[bytes] = []
    data: list[bytes] = []
    for line in lines[:-1]:
        field, _, value = line.partition(b":")
        if line == b"":
            payloads += [b"\n".join(data)] if data else []
            data = []
        elif field == b"data":
            data.append(value.removeprefix(b" "))
    return payloads


def parsed(stream: bytes, cuts: list[int]) -> list[bytes]:
    parser, at = sse.Events(), 0
    payloads: list[bytes] = []
    for cut in [*sorted(cuts), len(stream)]:
        payloads += parser.feed(stream[at:cut])
        at = max(at, cut)
    return payloads


@given(stream=STREAMS, cuts=CUTS, mark=st.booleans())
@example(stream=b"data: a\r\n\r\n", cuts=[8, 9, 10], mark=False)
@example(stream=b"data: a\r\ndata: b\r\n\r\n", cuts=[8], mark=False)
@example(stream=b"data: a\r\rdata: b\r\n\r\n", cuts=[8, 9], mark=True)
@example(stream=b"\n\n\ndata: a\n\n", cuts=[], mark=True)
def test_any_stream_cut_anywhere_reads_as_the_standard_says(stream: bytes, cuts: list[int], mark: bool):  # noqa: FBT001
    stream = (sse.BOM if mark else b"") + stream
    assert parsed(stream, cuts) == reference(stream)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_a_stream_cut_in_two_at_every_byte(end: bytes):
    lines = [
        sse.BOM + b": waiting",
        b"",
        b"data: {}",
        b"",
        b"data: a",
        b"data",
        b"data:b",
        b"id: 1",
        b"",
        b"",
        b"data: [DONE]",
    ]
    stream = end.join([*lines, b"", b""])
    assert reference(stream) == [b"{}", b"a\n\nb", b"[DONE]"]
    for at in range(len(stream)):
        assert parsed(stream, [at]) == reference(stream)


@given(payloads=st.lists(st.binary().map(lambda payload: payload.translate(None, b"\r\n"))), cuts=CUTS)
def test_what_event_writes_events_reads(payloads: list[bytes], cuts: list[int]):
    assert parsed(b"".join(map(sse.event, payloads)), cuts) == payloads


@given(stream=STREAMS, cuts=CUTS)
def test_comments_and_keep_alives_change_nothing(stream: bytes, cuts: list[int]):
    stream += b"\n\n"
    assert parsed(sse.KEEP_ALIVE + stream + sse.KEEP_ALIVE, cuts) == reference(stream)


@pytest.mark.parametrize("end", [b"\n", b"\r", b"\r\n"])
def test_an_event_is_there_with_its_blank_line(end: bytes):
    """Nothing waits for the bytes after it, not even after a CR that could be half a CRLF."""
    assert sse.Events().feed(b"data: x" + end + end) == [b"x"]


def test_lines_of_data_are_joined():
    assert sse.Events().feed(b"data: a\ndata:b\nevent: x\ndata:  c\n\n") == [b"a\nb\n c"]


@pytest.mark.parametrize("tail", [b"data: x", b"data: x\n", b"data: x\r\n", b"data: x\r"])
def test_the_last_event_needs_no_blank_line(tail: bytes):
    parser = sse.Events()
    assert parser.feed(b"data: w\n\n" + tail) == [b"w"]
    assert parser.end() == [b"x"]
    assert parser.end() == []


def test_a_stream_of_one_unfinished_event_may_begin_with_a_mark():
    parser = sse.Events()
    assert parser.feed(sse.BOM + b"data: x") == []
    assert parser.end() == [b"x"]


def test_a_mark_is_only_ignored_at_the_start():
    assert sse.Events().feed(b"data: x\n\n" + sse.BOM + b"data: y\n\n") == [b"x"]


def test_an_event_at_the_limit_is_taken_and_one_above_is_refused():
    whole = b"data: ".ljust(sse.MAX_EVENT_BYTES, b"x")
    assert sse.Events().feed(whole + b"\n\n") == [whole[6:]]
    with pytest.raises(ProviderError):
        sse.Events().feed(whole + b"x\n\n")


def test_an_event_is_refused_as_soon_as_it_is_too_long():
    parser, piece = sse.Events(), b"x" * (1 << 16)
    for _ in range(16):
        parser.feed(piece)
    with pytest.raises(ProviderError):
        parser.feed(b"x")


def test_many_events_and_many_lines():
    assert len(sse.Events().feed(b"data: x\n\n" * 2000)) == 2000
    assert sse.Events().feed(b"data: x\n" * 10_000 + b"\n") == [b"\n".join([b"x"] * 10_000)]
