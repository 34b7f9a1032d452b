"""Idempotency-Key: one key, one effect, one answer; streams too."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from tests.functions.test_errors import error_of
from tests.harness.gateway import DONE, GPT, InProcess, Told, answer, delta, finish, usage
from tests.harness.upstream import Fault, Upstream, streamed, whole

if TYPE_CHECKING:
    import httpx

KEY = {"idempotency-key": "order-4711"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "integer"}}}}}


async def again(gateway: InProcess, first: httpx.Response, body: dict[str, Any]) -> httpx.Response:
    """The same request once more, when the first one is settled; it may cost nothing."""
    await gateway.ended()
    balance = await gateway.balance()
    response = await gateway.ask(KEY, **body)
    assert response.status_code == 200
    assert response.headers["x-idempotent-replay"] == "true"
    assert "x-idempotent-replay" not in first.headers
    assert response.headers["x-generation-id"] == first.headers["x-generation-id"]
    assert (await gateway.balance(), await gateway.holds(), await gateway.held()) == (balance, ["settled"], 0)
    assert len(await gateway.usage()) == 1
    return response


async def test_a_whole_answer_is_given_again(gateway: InProcess):
    body: dict[str, Any] = {"n": 2}
    first = await gateway.ask(KEY, **body)
    assert (await again(gateway, first, body)).content == first.content


@pytest.mark.parametrize("options", [{}, {"n": 2}, {"tools": [TOOL]}, {"stream_options": {"include_usage": True}}])
async def test_a_stream_is_told_again_in_short(gateway: InProcess, options: dict[str, Any]):
    body: dict[str, Any] = {"stream": True, **options}
    first = await gateway.ask(KEY, **body)
    response = await again(gateway, first, body)
    told, before = Told(response, response.content), Told(first, first.content)
    choices = 2 if "n" in options else 1
    assert told.done
    assert len(told.chunks) == 2 * choices + (1 if "stream_options" in options else 0)
    for index in range(choices):
        opening, ending = told.choices(index)
        assert (opening["delta"]["role"], opening["finish_reason"]) == ("assistant", None)
        assert ending["finish_reason"] == before.choices(index)[-1]["finish_reason"]
        assert (opening["delta"]["content"] or "") == "".join(
            choice["delta"].get("content") or "" for choice in before.choices(index)
        )
    assert told.usage == before.usage
    assert (told.usage is not None) == ("stream_options" in options)
    if "tools" in options:
        (call,) = told.choices()[0]["delta"]["tool_calls"]
        parts = [part for choice in before.choices() for part in choice["delta"].get("tool_calls", ())]
        assert (call["index"], call["id"], call["type"]) == (0, parts[0]["id"], "function")
        assert call["function"]["arguments"] == "".join(part["function"]["arguments"] for part in parts) == '{"a":1}'


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_another_body_under_the_same_key(gateway: InProcess, *, stream: bool):
    await gateway.ask(KEY, stream=stream)
    await gateway.ended()
    before = await gateway.tables()
    for changed in ({"stream": not stream}, {"stream": stream, "max_tokens": 5}):
        error = error_of(await gateway.ask(KEY, **changed), 422, "idempotency_key_reused")
        assert error["param"] == "Idempotency-Key"
    assert await gateway.tables() == before


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_twins_at_once_have_one_effect(gateway: InProcess, upstream: Upstream, *, stream: bool):
    gateway.connect("openrouter", upstream.url)
    good = (delta("Hello"), finish(), usage(), DONE)
    upstream.will(streamed(0.1, *good) if stream else (0.1, *whole(answer("Hello"))))
    before = await gateway.balance()
    responses = await asyncio.gather(*(gateway.ask(KEY, model=GPT, stream=stream) for _ in range(16)))
    assert len(upstream.requests) == 1
    served = [response for response in responses if response.status_code == 200]
    waiting = [response for response in responses if response.status_code != 200]
    assert all("Hello" in response.text for response in served)
    assert len([response for response in served if "x-idempotent-replay" not in response.headers]) == 1
    for response in waiting:
        error_of(response, 409, "idempotency_in_progress")
        assert response.headers["x-should-retry"] == "true"
        assert response.headers["retry-after"] == "1"
    assert await gateway.ended() == ["settled"]
    assert await gateway.balance() == before - 10 * 150 - 5 * 600


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_failed_request_may_be_tried_again(gateway: InProcess, upstream: Upstream, *, stream: bool):
    gateway.connect("openrouter", upstream.url)
    good = streamed(delta("Hello"), finish(), usage(), DONE) if stream else whole(answer("Hello"))
    upstream.will(whole(b"", 500), good)
    assert (await gateway.ask(KEY, model=GPT, stream=stream)).status_code == 502
    response = await gateway.ask(KEY, model=GPT, stream=stream)
    assert "Hello" in response.text
    assert "x-idempotent-replay" not in response.headers
    assert await gateway.ended(2) == ["released", "settled"]


async def test_a_stream_that_broke_may_be_tried_again(gateway: InProcess, upstream: Upstream):
    gateway.connect("openrouter", upstream.url)
    upstream.will(streamed(delta("Hel"), Fault.CLOSE), streamed(delta("Hello"), finish(), usage(), DONE))
    broken = await gateway.stream(KEY, model=GPT)
    assert broken.error is not None
    await gateway.ended()
    assert (await gateway.stream(KEY, model=GPT)).text == "Hello"
    await gateway.ended(2)
    assert (await gateway.ask(KEY, model=GPT, stream=True)).headers["x-idempotent-replay"] == "true"


async def test_a_key_is_its_users_own(gateway: InProcess):
    await gateway.ask(KEY)
    await gateway.ended()
    await gateway.customer(10**9)
    response = await gateway.ask(KEY)
    assert (response.status_code, response.headers.get("x-idempotent-replay")) == (200, None)
    assert await gateway.ended(2) == ["settled"] * 2


@pytest.mark.parametrize(
    ("environment", "own", "status", "code"),
    [
        ("dev", "allowed_models = '{a/b}'", 403, "model_not_allowed"),
        ("dev", "limit_nano = 1", 402, "key_limit_reached"),
        ("dev", "limit_nano = 0, limit_reset = 'daily'", 402, "key_limit_reached"),
        ("test", "limit_nano = null", 422, "idempotency_key_reused"),
        ("dev", "limit_nano = 1000000000, max_requests = 1, allowed_models = '{sandbox/chat}'", 200, None),
    ],
)
async def test_another_key_gets_an_answer_that_it_could_have_asked_for(
    gateway: InProcess, environment: str, own: str, status: int, code: str | None
):
    first = await gateway.ask(KEY)
    other = await gateway.a_key(environment)
    await gateway.ended()
    last = "(select max(id) from gateway.api_keys)"
    await gateway.books.execute(f"update gateway.api_keys set {own} where id = {last}")  # noqa: S608
    second = await gateway.ask(KEY, key=other)
    if code is None:
        assert (second.status_code, second.content) == (status, first.content)
    else:
        error_of(second, status, code)


async def test_the_key_that_asked_gets_its_answer_whatever_is_left(gateway: InProcess):
    first = await gateway.ask(KEY)
    await gateway.ended()
    await gateway.books.execute("update gateway.api_keys set limit_nano = 0, max_requests = 1")
    assert (await gateway.ask(KEY)).content == first.content


async def test_a_key_is_good_for_a_day(gateway: InProcess):
    await gateway.ask(KEY)
    await gateway.ended()
    await gateway.books.execute("update gateway.idempotency_keys set created_at = created_at - interval '25 hours'")
    assert "x-idempotent-replay" not in (await gateway.ask(KEY)).headers
    assert await gateway.ended(2) == ["settled"] * 2


@pytest.mark.parametrize("key", ["", "x" * 256, "tab\there", "caf\u00e9"])
async def test_what_is_no_key(gateway: InProcess, key: str):
    before = await gateway.tables()
    response = await gateway.client.post(
        "/v1/chat/completions",
        headers=[(b"authorization", f"Bearer {gateway.key}".encode()), (b"idempotency-key", key.encode("latin-1"))],
        json={"model": "sandbox/chat", "messages": [{"role": "user", "content": "Hello"}]},
    )
    error = error_of(response, 400, "invalid_request_error")
    assert error["param"] == "Idempotency-Key"
    assert await gateway.tables() == before
