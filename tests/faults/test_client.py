"""Clients that leave, that come all at once, and that may not come any more."""

from __future__ import annotations

import asyncio
import json
import re
import socket
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx
import msgspec
import pytest

from gateway.http import reply
from gateway.inference import completions
from gateway.providers import base
from tests.harness.gateway import DONE, GPT, HELLO, InProcess, delta, finish, usage
from tests.harness.upstream import Fault, Upstream, streamed
from tests.runtime.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.harness.upstream import Step

ROOT = Path(__file__).parents[2]
HELD_S = 0.02


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream's status does not wait long for its first token."""
    monkeypatch.setattr(completions, "STATUS_HELD_S", HELD_S)


async def test_who_leaves_mid_stream_pays_for_what_came_and_the_provider_is_stopped(
    gateway: InProcess, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
):
    """The provider says no usage within the time that it is read on: what was sent counts whole."""
    monkeypatch.setattr(reply, "READ_ON_S", 0.05)
    before = await gateway.balance()
    gateway.connect("openrouter", upstream.url)
    upstream.will(streamed(delta("One two three four"), Fault.STALL))
    said = [{"role": "user", "content": "x" * 1000}]
    async with gateway.reading(model=GPT, messages=said) as chunks:
        assert b"One two" in await anext(chunks)
    await upstream.idle()
    assert await gateway.ended() == ["settled"]
    (used,) = await gateway.usage()
    assert (used["outcome"], used["is_estimated"], used["completion_tokens"]) == ("cancelled", True, 5)
    assert used["prompt_tokens"] > 1000
    assert await gateway.balance() == before - used["cost_nano"] < before


async def test_who_leaves_before_the_usage_pays_for_the_whole_answer(gateway: InProcess, upstream: Upstream):
    """Thoughts that nobody sees are in the usage, which comes after the last token."""
    gateway.connect("openrouter", upstream.url)
    spent = usage(prompt_tokens=100, completion_tokens=5000, completion_tokens_details={"reasoning_tokens": 4990})
    upstream.will(streamed(delta("One"), 0.3, delta(" two"), finish(), spent, DONE))
    async with gateway.reading(model=GPT) as chunks:
        assert b"One" in await anext(chunks)
    assert await gateway.ended() == ["settled"]
    (used,) = await gateway.usage()
    assert (used["outcome"], used["is_estimated"]) == ("completed", False)
    assert (used["prompt_tokens"], used["completion_tokens"], used["reasoning_tokens"]) == (100, 5000, 4990)


@asynccontextmanager
async def unread(gateway: InProcess) -> AsyncIterator[None]:
    """A client that asks for a stream and reads nothing of it."""
    address = urlsplit(gateway.url)
    body = msgspec.json.encode({"model": GPT, "messages": HELLO, "stream": True})
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {gateway.key}\r\n"
    with socket.socket() as client:
        client.setblocking(False)  # noqa: FBT003 - the socket's own
        loop = asyncio.get_running_loop()
        await loop.sock_connect(client, (address.hostname, address.port))
        await loop.sock_sendall(client, f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        yield


async def test_who_stops_reading_is_left_and_pays(
    gateway: InProcess, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reply, "SEND_S", 0.1)
    monkeypatch.setattr(reply, "READ_ON_S", 0.1)
    before = await gateway.balance()
    gateway.connect("openrouter", upstream.url)
    upstream.will(streamed(*[delta("x" * 100_000)] * 400, Fault.STALL))
    async with unread(gateway):
        assert await gateway.ended() == ["settled"]
        await upstream.idle()
    (used,) = await gateway.usage()
    assert (used["outcome"], used["is_estimated"]) == ("cancelled", True)
    assert await gateway.balance() == before - used["cost_nano"] < before


async def test_who_stops_reading_before_the_usage_pays_for_the_whole_answer(
    gateway: InProcess, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
):
    """It costs no less than to leave: the provider is read on, and tells of thoughts that nobody sees."""
    monkeypatch.setattr(reply, "SEND_S", 0.1)
    gateway.connect("openrouter", upstream.url)
    spent = usage(prompt_tokens=100, completion_tokens=5000, completion_tokens_details={"reasoning_tokens": 4990})
    upstream.will(streamed(*[delta("x" * 100_000)] * 250, finish(), spent, DONE))
    async with unread(gateway):
        assert await gateway.ended() == ["settled"]
    (used,) = await gateway.usage()
    assert (used["outcome"], used["is_estimated"]) == ("completed", False)
    assert (used["prompt_tokens"], used["completion_tokens"], used["reasoning_tokens"]) == (100, 5000, 4990)


async def last(chunks: AsyncIterator[bytes]) -> None:
    """Read to the end."""
    async for _ in chunks:
        pass


async def test_an_answer_is_sent_for_a_limited_time(
    gateway: InProcess, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reply, "SEND_S", 0.05)
    monkeypatch.setattr(reply, "ANSWER_S", 0.2)
    gateway.connect("openrouter", upstream.url)
    endless: list[Step] = [delta("x"), 0.02] * 1000
    upstream.will(streamed(*endless))
    async with gateway.reading(model=GPT) as chunks:
        with pytest.raises(httpx.RemoteProtocolError):
            await asyncio.wait_for(last(chunks), 10)
    assert await gateway.ended() == ["settled"]
    await upstream.idle()


def test_a_hold_outlives_the_longest_answer():
    (minutes,) = re.findall(r"interval '(\d+) minutes'", (ROOT / "supabase/api/credits.sql").read_text())
    waits = completions.STATUS_HELD_S + reply.ANSWER_S + reply.SEND_S + reply.READ_ON_S
    assert base.TOTAL_S <= reply.ANSWER_S
    assert int(minutes) * 60 >= 2 * waits


@pytest.mark.usefixtures("hasty")
async def test_who_leaves_before_the_first_token_pays_nothing(gateway: InProcess, upstream: Upstream):
    before = await gateway.balance()
    gateway.connect("openrouter", upstream.url)
    upstream.will(streamed(Fault.STALL))
    async with gateway.reading(model=GPT) as chunks:
        assert await anext(chunks) == b": keep-alive\n\n"
    await upstream.idle()
    assert await gateway.ended() == ["released"]
    assert await gateway.balance() == before


@pytest.mark.usefixtures("hasty")
async def test_who_leaves_before_the_status_pays_nothing(gateway: InProcess, upstream: Upstream):
    before = await gateway.balance()
    gateway.connect("openrouter", upstream.url)
    upstream.will((Fault.STALL,))
    asking = asyncio.create_task(gateway.stream(model=GPT))
    await until(lambda: upstream.requests)
    asking.cancel()
    await asyncio.wait({asking})
    await upstream.idle()
    assert await gateway.ended() == ["released"]
    assert await gateway.balance() == before


async def test_who_leaves_with_half_a_body_sent_has_asked_nothing(
    gateway: InProcess, capsys: pytest.CaptureFixture[str]
):
    before, address = await gateway.tables(), urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {gateway.key}\r\n"
    writer.write(f'{head}Content-Length: 500\r\n\r\n{{"model": '.encode())
    writer.write_eof()
    await reader.read()
    writer.close()
    await writer.wait_closed()
    assert gateway.line.calls == []
    assert await gateway.tables() == before
    (line,) = map(json.loads, capsys.readouterr().out.splitlines())
    assert (line["event"], line["level"], line["left"], line["status"]) == ("request", "INFO", True, None)


@pytest.mark.usefixtures("hasty")
@pytest.mark.parametrize(("clients", "affordable"), [(64, 10), (2, 1)])
async def test_requests_at_once_never_hold_more_than_the_balance(
    gateway: InProcess, upstream: Upstream, clients: int, affordable: int
):
    await gateway.stream(max_tokens=50)
    bound = await gateway.books.fetchval("select bound_nano from gateway.credit_holds")
    await gateway.customer(affordable * bound)
    await gateway.books.execute("update gateway.offers set provider = 'openrouter' where model_id = 'sandbox/chat'")
    gateway.connect("openrouter", upstream.url)
    upstream.will((Fault.STALL,))
    asking = [asyncio.create_task(gateway.ask(stream=True, max_tokens=50)) for _ in range(clients)]
    refused = await answered(asking, upstream)
    assert len(upstream.requests) == affordable
    assert await gateway.held() <= affordable * bound
    for response in refused:
        assert (response.status_code, response.json()["error"]["code"]) == (402, "in_flight_budget")
        assert int(response.headers["retry-after-ms"]) > 0
    for task in asking:
        task.cancel()
    await asyncio.wait(asking)
    states = await gateway.ended(1 + affordable)
    assert states == ["settled", *["released"] * affordable]
    assert await gateway.balance() == affordable * bound


async def answered(asking: list[asyncio.Task[httpx.Response]], upstream: Upstream) -> list[httpx.Response]:
    """What was refused, once every request is with the provider or refused."""
    await until(lambda: sum(task.done() for task in asking) + len(upstream.requests) == len(asking))
    return [task.result() for task in asking if task.done()]


async def test_requests_at_once_are_each_charged_once(gateway: InProcess):
    before = await gateway.balance()
    answers = await asyncio.gather(*(gateway.ask() for _ in range(32)), *(gateway.stream() for _ in range(32)))
    await gateway.ended(64)
    used = await gateway.usage()
    assert len(answers) == len(used) == 64
    assert await gateway.balance() == before - sum(row["cost_nano"] for row in used)


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("api_keys set status = 'revoked'", "invalid_api_key"),
        ("api_keys set expires_at = now()", "expired_api_key"),
        ("api_keys set key_hash = 'v1:' || repeat('0', 64)", "invalid_api_key"),
        ("users set status = 'suspended'", "invalid_api_key"),
    ],
)
async def test_a_key_that_was_good_a_moment_ago(gateway: InProcess, change: str, code: str):
    assert (await gateway.ask()).status_code == 200
    await gateway.ended(1)
    await gateway.books.execute(f"update gateway.{change}")
    before = await gateway.tables()
    for path in ("/v1/chat/completions", "/v1/credits", "/v1/key"):
        response = await gateway.client.request(
            "POST" if "chat" in path else "GET",
            path,
            headers=gateway.headers(),
            content=b'{"model": "sandbox/chat", "messages": [{"role": "user", "content": "Hello"}]}' * ("chat" in path),
        )
        assert (response.status_code, response.json()["error"]["code"]) == (401, code)
        assert response.headers["www-authenticate"] == "Bearer"
    assert await gateway.tables() == before
