"""How long an exchange with a provider may last, and on which connection it runs."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import TYPE_CHECKING

import msgspec
import pytest

from gateway import sse
from gateway.errors import ProviderError, ProviderTimeout
from gateway.providers import base
from tests.harness.upstream import Fault, Upstream, head, streamed, whole
from tests.providers.subjects import STREAM, Told, adapter, events, recorded, refused, request, without_usage

if TYPE_CHECKING:
    from gateway.providers.base import Provider
    from tests.harness.upstream import Step


async def test_an_exchange_has_a_total_whatever_it_sends(
    one: Provider, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(base, "TOTAL_S", 0.15)
    endless: list[Step] = [b": waiting\n\n", 0.01] * 500
    upstream.will((head(), *endless))
    assert type(await refused(one, request())) is ProviderTimeout
    assert type(await refused(one, STREAM)) is ProviderTimeout


async def test_bytes_keep_a_stream_from_being_given_up(
    one: Provider, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
):
    """Comments are bytes too: a provider that waits for its model says so."""
    monkeypatch.setattr(base, "IDLE_S", 1.0)
    monkeypatch.setattr(base, "KEEP_ALIVE_S", 0.05)
    waiting: list[Step] = [b": OPENROUTER PROCESSING\n\n", 0.4] * 4
    upstream.will(streamed(*waiting, recorded("openrouter", "stream.sse")))
    heard = await Told().hear(one, STREAM)
    assert heard.text
    assert heard.silences


async def test_comments_do_not_keep_silence_from_being_told(
    one: Provider, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
):
    """Bytes come all the time, events do not: the client would hear nothing."""
    monkeypatch.setattr(base, "KEEP_ALIVE_S", 0.05)
    waiting: list[Step] = [b": OPENROUTER PROCESSING\n\n", 0.01] * 50
    upstream.will(streamed(*waiting, recorded("openrouter", "stream.sse")))
    heard = await Told().hear(one, STREAM)
    assert heard.text
    assert heard.silences >= 5


@pytest.mark.parametrize("has_usage", [False, True])
async def test_a_stream_ends_soon_after_its_last_finish_reason(
    one: Provider, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, *, has_usage: bool
):
    monkeypatch.setattr(base, "DONE_S" if has_usage else "USAGE_S", 0.05)
    text, *_ = events(recorded("openrouter", "stream.sse"))[1:]
    ended = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}
    spent = {"usage": {"prompt_tokens": 1, "completion_tokens": 1}} if has_usage else {}
    endless: list[Step] = [b": waiting\n\n", 0.01] * 500
    upstream.will(streamed(text, sse.event(msgspec.json.encode(ended | spent)), *endless))
    async with asyncio.timeout(4):
        heard = await Told().hear(one, STREAM)
    assert heard.transcript.finish_reason == "stop"
    await upstream.idle()


async def test_an_error_that_is_never_told_to_its_end_is_a_timeout(
    one: Provider, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(base, "TOTAL_S", 0.1)
    monkeypatch.setattr(base, "IDLE_S", 0.1)
    upstream.will((head(400, content_length="99"), b"{", Fault.STALL))
    assert type(await refused(one, request())) is ProviderTimeout
    assert type(await refused(one, STREAM)) is ProviderTimeout


async def test_a_provider_sees_its_client_leave(one: Provider, upstream: Upstream):
    upstream.will(streamed(*events(recorded("openrouter", "stream.sse"))[:4], Fault.STALL))
    async with aclosing(one.stream(STREAM)) as stream:
        await anext(stream)
    await upstream.idle()


# Connections


async def test_connections_are_kept(name: str, provider: Provider, upstream: Upstream):
    upstream.will(whole(without_usage(recorded(name, "completion.json"))))
    for _ in range(3):
        await provider.complete(request())
    assert upstream.connections == 1


async def test_a_connection_that_the_provider_closed_meanwhile_is_replaced(one: Provider, upstream: Upstream):
    upstream.will(whole(recorded("openrouter", "completion.json")))
    await one.complete(request())
    await upstream.drop_connections()
    await one.complete(request())
    assert (upstream.connections, len(upstream.requests)) == (2, 2)


@pytest.mark.parametrize("fault", [Fault.CLOSE, Fault.RESET])
async def test_a_connection_that_dies_under_a_request_is_replaced_once(one: Provider, upstream: Upstream, fault: Fault):
    answer = whole(recorded("openrouter", "completion.json"))
    upstream.will(answer, (fault,), answer)
    await one.complete(request())
    await one.complete(request())
    assert [asked.connection for asked in upstream.requests] == [1, 1, 2]


async def test_a_provider_that_always_closes_is_asked_twice(one: Provider, upstream: Upstream):
    upstream.will((Fault.CLOSE,))
    assert type(await refused(one, request())) is ProviderError
    assert len(upstream.requests) == 2


async def test_nobody_at_the_address_is_a_provider_error():
    async with Upstream().open() as gone:
        provider = adapter("chutes", gone.url)
    assert type(await refused(provider, request())) is ProviderError
    assert type(await refused(adapter("chutes", "https://provider.invalid/v1"), request())) is ProviderError


async def test_a_provider_without_tls_is_a_provider_error():
    def speak_plainly(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak_plainly, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        assert type(await refused(adapter("chutes", f"https://127.0.0.1:{port}"), request())) is ProviderError
