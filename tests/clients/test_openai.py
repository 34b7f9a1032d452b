"""The official OpenAI client against the gateway: in one process, and on the local Lambda over both transports."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, Any

import openai
import pytest
from openai import AsyncOpenAI, OpenAI

from gateway.money import NANO
from local import postgrest, schema
from tests.harness.gateway import GPT, Gateway, InProcess, answer, on_lambda
from tests.harness.upstream import Upstream, whole
from tests.harness.web import served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from openai.types.chat import ChatCompletionMessageParam, ChatCompletionToolParam

    from tests.harness.postgres import Database

SECRET = "a secret that signs tokens, 32 bytes and more"
MODEL = "sandbox/chat"
HELLO: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hello"}]
SAID = "You said: Hello This is the sandbox: it answers the same every time."
WEATHER: ChatCompletionToolParam = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


@pytest.fixture
async def client(gateway: InProcess) -> AsyncIterator[AsyncOpenAI]:
    async with customer(gateway) as client:
        yield client


@pytest.fixture(params=["postgres", "supabase"])
async def lambdas(request: pytest.FixtureRequest, database: Database, tmp_path: Path) -> AsyncIterator[Gateway]:
    """The gateway on the local Lambda, with each transport."""
    async with AsyncExitStack() as stack:
        own = None
        if request.param == "supabase":
            own = partial(through, stack.enter_context(served(postgrest.app(database.admin, SECRET))))
        yield await stack.enter_async_context(on_lambda(database, tmp_path, own=own))


def through(url: str, group: str) -> dict[str, str]:
    """A group's settings of the supabase transport: a token of its role."""
    return {"SUPABASE_URL": url, "SUPABASE_SERVICE_KEY": postgrest.service_key(SECRET, schema.role(group))}


def customer(gateway: Gateway, **options: Any) -> AsyncOpenAI:
    return AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, **{"max_retries": 0, **options})


async def test_chat(client: AsyncOpenAI, gateway: InProcess):
    completion = await client.chat.completions.create(model=MODEL, messages=HELLO)
    assert completion.choices[0].message.content == SAID
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.model_extra is not None
    assert completion.usage.model_extra["cost"] > 0
    assert completion._request_id
    assert completion._request_id.startswith("req_")
    await gateway.ended()


async def test_stream(client: AsyncOpenAI):
    said, spent = "", None
    stream = await client.chat.completions.create(
        model=MODEL, messages=HELLO, stream=True, stream_options={"include_usage": True}
    )
    async for chunk in stream:
        if chunk.choices:
            said += chunk.choices[0].delta.content or ""
        else:
            spent = chunk.usage
    assert said == SAID
    assert spent is not None
    assert spent.completion_tokens == 17


async def test_the_streaming_helper_assembles_the_same(client: AsyncOpenAI):
    async with client.chat.completions.stream(model=MODEL, messages=HELLO, tools=[WEATHER]) as stream:
        completion = await stream.get_final_completion()
    calls = completion.choices[0].message.tool_calls
    assert calls is not None
    call = calls[0]
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "sandbox"})
    assert completion.choices[0].finish_reason == "tool_calls"


async def test_tools_and_their_answer(client: AsyncOpenAI):
    first = await client.chat.completions.create(model=MODEL, messages=HELLO, tools=[WEATHER], tool_choice="required")
    message = first.choices[0].message
    assert message.tool_calls is not None
    call = message.tool_calls[0]
    told: ChatCompletionMessageParam = {"role": "tool", "tool_call_id": call.id, "content": "sunny"}
    messages: list[ChatCompletionMessageParam] = [*HELLO, message.model_dump(exclude_none=True), told]  # type: ignore[list-item]
    second = await client.chat.completions.create(model=MODEL, messages=messages, tools=[WEATHER])
    assert (second.choices[0].message.content or "").startswith("You said: sunny")


async def test_json_mode(client: AsyncOpenAI):
    completion = await client.chat.completions.create(
        model=MODEL, messages=HELLO, response_format={"type": "json_object"}
    )
    assert json.loads(completion.choices[0].message.content or "") == {"you_said": "Hello"}


async def test_raw_headers(client: AsyncOpenAI):
    response = await client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
    assert response.headers["x-ratelimit-limit-requests"] == "600"
    assert response.headers["x-gateway-provider"] == "sandbox"
    assert response.headers["x-generation-id"] == response.parse().id
    assert Decimal(response.headers["x-gateway-cost-usd"]) > 0


async def test_an_idempotency_key(client: AsyncOpenAI, gateway: InProcess):
    headers = {"Idempotency-Key": "one"}
    first = await client.chat.completions.create(model=MODEL, messages=HELLO, extra_headers=headers)
    await gateway.ended()
    second = await client.chat.completions.create(model=MODEL, messages=HELLO, extra_headers=headers)
    assert second == first
    assert await gateway.holds() == ["settled"]


async def test_models(client: AsyncOpenAI):
    listed = [model async for model in client.models.list()]
    assert "sandbox/chat" in {model.id for model in listed}
    model = await client.models.retrieve("openai/gpt-4o-mini")
    assert (model.id, model.owned_by, model.object) == ("openai/gpt-4o-mini", "openai", "model")
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("nobody/nothing")


async def test_errors_are_the_sdks_own(client: AsyncOpenAI, gateway: InProcess):
    async def refused(kind: type[openai.APIStatusError], code: str, /, **body: Any) -> openai.APIStatusError:
        with pytest.raises(kind) as caught:
            await client.chat.completions.create(**{"model": MODEL, "messages": HELLO, **body})
        assert caught.value.code == code
        assert caught.value.request_id == caught.value.response.json()["request_id"]
        return caught.value

    assert (await refused(openai.BadRequestError, "invalid_request_error", temperature=7)).param == "temperature"
    assert (await refused(openai.NotFoundError, "model_not_found", model="nobody/nothing")).param == "model"
    await refused(openai.RateLimitError, "provider_rate_limited", model="sandbox/rate-limited")
    await refused(openai.InternalServerError, "provider_error", model="sandbox/error")
    await gateway.books.execute("update gateway.api_keys set limit_nano = 0")
    assert (await refused(openai.APIStatusError, "key_limit_reached")).status_code == 402
    await gateway.books.execute("update gateway.api_keys set scopes = '{account:read}'")
    await refused(openai.PermissionDeniedError, "insufficient_scope")
    await gateway.books.execute("update gateway.api_keys set status = 'revoked'")
    await refused(openai.AuthenticationError, "invalid_api_key")
    await gateway.books.execute(
        "update gateway.api_keys set status = 'active', limit_nano = null, scopes = '{inference}'"
    )
    headers = {"Idempotency-Key": "one"}
    await client.chat.completions.create(model=MODEL, messages=HELLO, extra_headers=headers)
    with pytest.raises(openai.UnprocessableEntityError):
        await client.chat.completions.create(model=MODEL, messages=HELLO, extra_headers=headers, max_tokens=1)


async def test_a_stream_that_breaks_raises(client: AsyncOpenAI, gateway: InProcess):
    stream = await client.chat.completions.create(model="sandbox/cut", messages=HELLO, stream=True)
    said = ""
    with pytest.raises(openai.APIError) as caught:  # noqa: PT012 - what came before it raised counts
        async for chunk in stream:
            said += chunk.choices[0].delta.content or ""
    assert caught.value.code == "provider_error"
    assert SAID.startswith(said)
    await gateway.ended()


async def test_what_may_be_tried_again_is(gateway: InProcess, upstream: Upstream, monkeypatch: pytest.MonkeyPatch):
    """The SDK waits as long as it is told to, and asks once more; 402 it never repeats."""
    waits: list[float] = []

    async def rest(seconds: float) -> None:
        waits.append(seconds)

    monkeypatch.setattr("openai._base_client.anyio.sleep", rest)
    gateway.connect("openrouter", upstream.url)
    limited = whole(b"{}", 429, retry_after="3")
    upstream.will(limited, whole(b"{}", 500), whole(answer("Hello")))
    async with customer(gateway, max_retries=2) as client:
        completion = await client.chat.completions.create(model=GPT, messages=HELLO)
        assert (completion.choices[0].message.content, len(upstream.requests)) == ("Hello", 3)
        assert waits[0] == 3.0
        await gateway.books.execute("update gateway.api_keys set limit_nano = 0")
        with pytest.raises(openai.APIStatusError) as caught:
            await client.chat.completions.create(model=GPT, messages=HELLO)
    assert (caught.value.status_code, len(upstream.requests)) == (402, 3)


async def test_a_twin_in_flight_is_waited_for(gateway: InProcess, upstream: Upstream, monkeypatch: pytest.MonkeyPatch):
    """The 409 of a running twin is tried again by the SDK, and gets the twin's answer."""
    pause = asyncio.sleep

    async def rest(seconds: float) -> None:
        assert seconds == 1.0
        await gateway.ended()
        await pause(0)

    monkeypatch.setattr("openai._base_client.anyio.sleep", rest)
    gateway.connect("openrouter", upstream.url)
    upstream.will((0.2, *whole(answer("Hello"))))
    headers = {"Idempotency-Key": "one"}
    async with customer(gateway, max_retries=1) as client:
        first, second = await asyncio.gather(
            *(client.chat.completions.create(model=GPT, messages=HELLO, extra_headers=headers) for _ in range(2))
        )
    assert first == second
    assert len(upstream.requests) == 1


async def test_the_synchronous_client(gateway: InProcess):
    def use() -> tuple[str, str]:
        with OpenAI(base_url=f"{gateway.url}/v1", api_key=gateway.key, max_retries=0) as client:
            whole = client.chat.completions.create(model=MODEL, messages=HELLO).choices[0].message.content
            stream = client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
            return whole or "", "".join(chunk.choices[0].delta.content or "" for chunk in stream)

    assert await asyncio.to_thread(use) == (SAID, SAID)
    assert await gateway.ended(2) == ["settled", "settled"]


async def test_on_the_local_lambda(lambdas: Gateway):
    before = await lambdas.balance()
    async with customer(lambdas) as client:
        stream = await client.chat.completions.create(model=MODEL, messages=HELLO, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == SAID
        response = await client.chat.completions.with_raw_response.create(model=MODEL, messages=HELLO)
        assert response.parse().choices[0].message.content == SAID
        assert {model.id async for model in client.models.list()} >= {MODEL}
        assert (await client.models.retrieve(GPT)).id == GPT
        with pytest.raises(openai.NotFoundError) as caught:
            await client.chat.completions.create(model="nobody/nothing", messages=HELLO)
        assert caught.value.code == "model_not_found"
    await lambdas.ended(2)
    fall = Decimal(before - await lambdas.balance()) / NANO
    assert fall == 2 * Decimal(response.headers["x-gateway-cost-usd"]) > 0
    shown = (await lambdas.client.get("/v1/credits", headers=lambdas.headers())).text
    assert json.loads(shown, parse_float=Decimal)["data"]["total_usage"] == fall
    assert (await lambdas.client.get("/health")).json()["database"] == "connected"
