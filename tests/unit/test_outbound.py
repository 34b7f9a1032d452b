"""The one HTTP client, by itself; what providers answer through it is in tests/providers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from yarl import URL

from gateway import outbound
from gateway.errors import ProviderError
from tests.harness.upstream import Fault, Upstream, head, streamed, until_closed, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.harness.upstream import Reply


@pytest.fixture(autouse=True)
async def _connections() -> AsyncIterator[None]:
    yield
    await outbound.close()


async def posted(upstream: Upstream, *replies: Reply) -> outbound.Reply:
    upstream.will(*replies)
    return await outbound.post(URL(upstream.url) / "path", {"x-asked": "1"}, b"{}")


async def read_all(reply: outbound.Reply) -> bytes:
    parts = []
    try:
        async with asyncio.timeout(5):
            while (part := await reply.read(0.2)) != b"":
                parts.append(part or b"")
    finally:
        reply.close()
    return b"".join(parts)


async def test_a_reply_is_read_to_its_end(upstream: Upstream):
    reply = await posted(upstream, whole(b"hello", 418, retry_after="7"))
    assert (reply.status, reply.headers["Retry-After"]) == (418, "7")
    assert await read_all(reply) == b"hello"
    (asked,) = upstream.requests
    assert (asked.method, asked.path, asked.body, asked.headers["x-asked"]) == ("POST", "/path", b"{}", "1")


async def test_silence_is_none_and_loses_nothing(upstream: Upstream):
    reply = await posted(upstream, (head(content_length="2"), b"a", 0.1, b"b"))
    seen = [await reply.read(0.001) for _ in range(3)]
    assert None in seen
    while len(seen) < 1000 and b"".join(part or b"" for part in seen) != b"ab":
        seen.append(await reply.read(0.02))
    assert b"".join(part or b"" for part in seen) == b"ab"
    assert await reply.read(5) == b""


@pytest.mark.parametrize(
    "reply",
    [
        (head(content_length="9"), b"half", Fault.CLOSE),
        (head(content_length="9"), b"half", 0.01, Fault.RESET),
        streamed(b"half", Fault.CLOSE),
        (head(transfer_encoding="chunked"), b"4\r\nhalf\r\n", 0.01, b"zzz\r\n", Fault.CLOSE),
    ],
)
async def test_a_cut_body_raises(upstream: Upstream, reply: Reply):
    with pytest.raises(ProviderError):
        await read_all(await posted(upstream, reply))


@pytest.mark.parametrize(
    "reply",
    [
        (b"not http at all\r\n\r\n", Fault.CLOSE),
        (b"HTTP/1.1 abc\r\n\r\n", Fault.CLOSE),
        (b"HTTP/1.1 200 OK\r\nbroken header\r\n\r\n", Fault.CLOSE),
        (b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n", Fault.CLOSE),
        (head(content_length="5", transfer_encoding="chunked"), Fault.CLOSE),
        (head(transfer_encoding="chunked"), b"zzz\r\nhalf\r\n", Fault.CLOSE),
        (head(x_long="x" * 100_000), Fault.CLOSE),
        (b"HTTP/1.1 200 OK\r\n", Fault.CLOSE),
    ],
)
async def test_what_is_not_http_raises(upstream: Upstream, reply: Reply):
    with pytest.raises(ProviderError):
        await read_all(await posted(upstream, reply))


@pytest.mark.parametrize("encoding", ["gzip", "br", "zstd", "gzip, identity"])
async def test_compressed_answers_are_refused(upstream: Upstream, encoding: str):
    with pytest.raises(ProviderError):
        await posted(upstream, (head(content_encoding=encoding), b"\x1f\x8b", Fault.STALL))
    await upstream.idle()


async def test_an_answer_that_says_it_is_plain_is_read(upstream: Upstream):
    assert await read_all(await posted(upstream, whole(b"x", content_encoding="identity"))) == b"x"


async def test_a_finished_exchange_gives_its_connection_back_and_a_closed_one_does_not(upstream: Upstream):
    first = await posted(upstream, whole(b"x"))
    await read_all(first)
    second = await posted(upstream, streamed(b"x", Fault.STALL))
    assert await second.read(5) == b"x"
    second.close()
    await upstream.idle()
    await read_all(await posted(upstream, whole(b"x")))
    assert [asked.connection for asked in upstream.requests] == [1, 1, 2]


async def test_an_answer_may_end_with_its_connection(upstream: Upstream):
    assert await read_all(await posted(upstream, until_closed(b"a", b"b"))) == b"ab"


async def test_many_exchanges_at_once_do_not_wait_for_each_other(upstream: Upstream):
    """More than any pool's usual limit, and a stalled one among them."""
    stalled = await posted(upstream, streamed(b"x", Fault.STALL))
    upstream.will(whole(b"x"))
    replies = await asyncio.gather(*(outbound.post(URL(upstream.url), {}, b"") for _ in range(120)))
    assert [await read_all(reply) for reply in replies] == [b"x"] * 120
    stalled.close()


def test_connections_never_cross_loops():
    async def exchange() -> bytes:
        async with Upstream().open() as upstream:
            answer = await read_all(await posted(upstream, whole(b"x")))
            await outbound.close()
            return answer

    assert [asyncio.run(exchange()) for _ in range(2)] == [b"x", b"x"]


async def test_closing_twice_is_closing_once():
    await outbound.close()
    await outbound.close()
