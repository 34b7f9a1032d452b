"""POST /v1/chat/completions: what a caller gets, in the shapes of docs: headers, objects, chunks, money."""

from __future__ import annotations

import json
import os
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from gateway import providers, settings
from gateway.inference import completions
from gateway.providers import base
from tests.harness.gateway import DONE, GPT, HELLO, InProcess, Told, answer, delta, event, finish, usage
from tests.harness.upstream import Fault, Upstream, streamed, whole

if TYPE_CHECKING:
    import httpx

NANO = 10**9
GOOD = (delta("", role="assistant"), delta("Hello"), finish(), usage(), DONE)
DURATION = re.compile(r"\d+ms|[1-5]?\d(\.\d{1,3})?s|\d+m[1-5]?\d(\.\d{1,3})?s")
INFERENCE_HEADERS = {
    "x-request-id": r"req_[0-9a-f]{24}",
    "x-generation-id": r"gen-[0-9a-f-]{36}",
    "x-ratelimit-limit-requests": "600",
    "x-ratelimit-remaining-requests": "599",
    "x-ratelimit-reset-requests": DURATION.pattern,
    "x-ratelimit-limit-tokens": "2000000",
    "x-ratelimit-remaining-tokens": r"19\d{5}",
    "x-ratelimit-reset-tokens": DURATION.pattern,
    "x-ratelimit-limit": "600",
    "x-ratelimit-remaining": "599",
    "x-ratelimit-reset": r"\d{10}",
    "x-gateway-provider": "sandbox",
    "strict-transport-security": "max-age=31536000; includeSubDomains",
    "x-content-type-options": "nosniff",
    "cache-control": "no-store",
}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        },
    },
}


def nano(dollars: Any) -> int:
    """An amount as JSON or a header has it, exactly."""
    value = Decimal(dollars) * NANO
    assert value == int(value)
    return int(value)


def exact(response: httpx.Response) -> Any:
    return json.loads(response.content, parse_float=Decimal, parse_int=Decimal)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_every_header(gateway: InProcess, *, stream: bool):
    response = await gateway.ask(stream=stream)
    wrong = {
        name: response.headers.get(name)
        for name, pattern in INFERENCE_HEADERS.items()
        if not re.fullmatch(pattern, response.headers.get(name, ""))
    }
    assert not wrong
    assert ("x-gateway-cost-usd" in response.headers) == (not stream)
    assert response.headers["content-type"] == ("text/event-stream; charset=utf-8" if stream else "application/json")


async def test_limits_are_told_as_openai_tells_them(gateway: InProcess):
    limit = "insert into gateway.rate_limit_configs (user_id, requests_per_minute) values ($1, 2)"
    await gateway.books.execute(limit, gateway.user_id)
    first, second = await gateway.ask(), await gateway.ask()
    assert (first.headers["x-ratelimit-reset-requests"], first.headers["x-ratelimit-remaining"]) == ("30s", "1")
    assert DURATION.fullmatch(second.headers["x-ratelimit-reset-requests"])
    assert second.headers["x-ratelimit-remaining-requests"] == "0"


async def test_a_whole_answer(gateway: InProcess):
    before = await gateway.balance()
    response = await gateway.ask()
    told = exact(response)
    assert (told["object"], told["model"], told["provider"]) == ("chat.completion", "sandbox/chat", "sandbox")
    assert told["id"] == response.headers["x-generation-id"]
    (choice,) = told["choices"]
    assert (choice["index"], choice["finish_reason"], choice["message"]["role"]) == (0, "stop", "assistant")
    await gateway.ended()
    fall = before - await gateway.balance()
    spent = told["usage"]
    assert nano(spent["cost"]) == nano(response.headers["x-gateway-cost-usd"]) == fall
    assert fall == spent["prompt_tokens"] * 150 + spent["completion_tokens"] * 600 > 0
    assert spent["total_tokens"] == spent["prompt_tokens"] + spent["completion_tokens"]
    assert spent["cost_details"] == {"upstream_inference_cost": None}
    gateway_usage = told["gateway_usage"]
    assert gateway_usage.keys() == {"tokens_charged", "request_ms", "cost_usd", "user_balance_after"}
    assert gateway_usage["tokens_charged"] == spent["total_tokens"]
    assert nano(gateway_usage["cost_usd"]) == fall
    assert nano(gateway_usage["user_balance_after"]) == await gateway.balance()


@pytest.mark.parametrize("wanted", [None, False, True])
async def test_a_stream_in_its_order(gateway: InProcess, *, wanted: bool | None):
    before = await gateway.balance()
    options: dict[str, Any] = {} if wanted is None else {"stream_options": {"include_usage": wanted}}
    told = await gateway.stream(**options)
    await gateway.ended()
    assert told.done
    assert told.payloads.count("[DONE]") == 1
    chunks = told.chunks[:-1] if wanted else told.chunks
    for chunk in chunks:
        assert (chunk["id"], chunk["object"]) == (told.headers["x-generation-id"], "chat.completion.chunk")
        assert (chunk["model"], chunk["provider"]) == ("sandbox/chat", "sandbox")
        assert len(chunk["choices"]) == 1
        assert ("usage" in chunk) is bool(wanted)
        assert chunk.get("usage") is None
    assert len({chunk["created"] for chunk in chunks}) == 1
    first, *middle, last = [chunk["choices"][0] for chunk in chunks]
    assert first["delta"]["role"] == "assistant"
    assert all("role" not in choice["delta"] for choice in middle)
    assert [choice["finish_reason"] for choice in (first, *middle)] == [None] * (len(chunks) - 1)
    assert (last["finish_reason"], last["delta"]) == ("stop", {})
    assert told.text == (await gateway.ask()).json()["choices"][0]["message"]["content"]
    if wanted:
        spent = json.loads(told.payloads[-2], parse_float=Decimal)
        assert spent["choices"] == []
        first_cost = (await gateway.usage())[0]["cost_nano"]
        assert nano(spent["usage"]["cost"]) == first_cost < before


async def test_a_streams_cost_is_the_balances_fall(gateway: InProcess):
    before = await gateway.balance()
    told = await gateway.stream(stream_options={"include_usage": True})
    await gateway.ended()
    spent = json.loads(told.payloads[-2], parse_float=Decimal)["usage"]
    assert nano(spent["cost"]) == before - await gateway.balance() > 0
    (used,) = await gateway.usage()
    assert (used["is_streamed"], used["finish_reason"], used["outcome"]) == (True, "stop", "completed")


async def test_several_choices(gateway: InProcess):
    said = [choice["message"]["content"] for choice in (await gateway.ask(n=2)).json()["choices"]]
    told = await gateway.stream(n=2)
    for index in (0, 1):
        choices = told.choices(index)
        assert "".join(choice["delta"].get("content") or "" for choice in choices) == said[index]
        assert choices[0]["delta"]["role"] == "assistant"
        assert [choice["finish_reason"] for choice in choices if choice["finish_reason"]] == ["stop"]


async def test_tools(gateway: InProcess):
    (choice,) = (await gateway.ask(tools=[TOOL])).json()["choices"]
    (call,) = choice["message"]["tool_calls"]
    assert (choice["finish_reason"], choice["message"]["content"]) == ("tool_calls", None)
    assert json.loads(call["function"]["arguments"]) == {"city": "sandbox", "days": 1}
    told = await gateway.stream(tools=[TOOL])
    deltas = [part for choice in told.choices() for part in choice["delta"].get("tool_calls", ())]
    assert {part["index"] for part in deltas} == {0}
    assert "".join(part["function"]["arguments"] for part in deltas) == call["function"]["arguments"]
    assert [part["id"] for part in deltas if "id" in part] == [call["id"]]
    assert told.choices()[-1]["finish_reason"] == "tool_calls"


async def test_json_mode(gateway: InProcess):
    said = (await gateway.ask(response_format={"type": "json_object"})).json()["choices"][0]["message"]["content"]
    assert json.loads(said) == {"you_said": "Hello"}
    schema = {"name": "place", "schema": TOOL["function"]["parameters"]}  # type: ignore[index]
    told = await gateway.stream(response_format={"type": "json_schema", "json_schema": schema})
    assert json.loads(told.text) == {"city": "sandbox", "days": 1}


async def test_an_image_is_passed_on(gateway: InProcess, upstream: Upstream):
    address = "http://169.254.169.254/latest/meta-data"
    image = {"type": "image_url", "image_url": {"url": address}}
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is it?"}, image]}]
    assert "1 image" in (await gateway.stream(messages=messages)).text
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(answer()))
    assert (await gateway.ask(model=GPT, messages=messages)).status_code == 200
    assert upstream.requests[0].json()["messages"] == messages


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_the_provider_is_asked(gateway: InProcess, upstream: Upstream, *, stream: bool):
    gateway.connect("openrouter", upstream.url)
    upstream.will(streamed(*GOOD) if stream else whole(answer()))
    body: dict[str, Any] = {"temperature": 0.5, "top_k": 40, "future_field": {"deep": [1, None, "é"]}, "user": "u-1"}
    own: dict[str, Any] = {"models": [GPT], "provider": {"order": ["openrouter"]}, "usage": {"include": True}}
    response = await gateway.ask(model=GPT, stream=stream, **body, **own)
    assert response.status_code == 200
    asked = upstream.requests[0].json()
    expected = {
        "model": GPT,
        "messages": HELLO,
        "stream": stream,
        "usage": {"include": True},
        "max_tokens": 16384,
        **body,
    }
    assert asked == expected | ({"stream_options": {"include_usage": True}} if stream else {})
    assert gateway.key not in str(upstream.requests)


async def test_stream_options_of_the_caller_stay(gateway: InProcess, upstream: Upstream):
    gateway.connect("openrouter", upstream.url)
    upstream.will(streamed(*GOOD))
    await gateway.stream(model=GPT, stream_options={"include_usage": False, "include_obfuscation": False})
    asked = upstream.requests[0].json()["stream_options"]
    assert asked == {"include_usage": True, "include_obfuscation": False}


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
async def test_the_balance_limits_the_answer(gateway: InProcess, upstream: Upstream, name: str):
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(answer()))
    await gateway.customer(100_000)
    ceiling: dict[str, Any] = {name: 4000, "reasoning": {"max_tokens": 3000}}
    response = await gateway.ask(model=GPT, **ceiling)
    asked = upstream.requests[0].json()
    assert 16 <= asked["max_tokens"] < 3000
    assert int(response.headers["x-gateway-max-tokens"]) == asked["max_tokens"] == asked["reasoning"]["max_tokens"]
    assert "max_completion_tokens" not in asked


async def test_a_callers_own_ceiling(gateway: InProcess):
    free = await gateway.ask(max_tokens=1000)
    response = await gateway.ask({"x-max-cost-usd": "0.0001"}, max_tokens=1000)
    bounds = [row["bound_nano"] for row in await gateway.rows("select * from gateway.credit_holds order by created_at")]
    assert "x-gateway-max-tokens" not in free.headers
    assert int(response.headers["x-gateway-max-tokens"]) < 1000
    assert bounds[1] <= 100_000 < bounds[0]
    refused = await gateway.ask({"x-max-cost-usd": "0.00000001"})
    error = refused.json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "invalid_request_error", "X-Max-Cost-Usd")


async def test_the_next_model_answers(gateway: InProcess):
    response = await gateway.ask(model="sandbox/error", models=["sandbox/rate-limited", "sandbox/chat"])
    assert response.json()["model"] == "sandbox/chat"
    told = await gateway.stream(model="sandbox/error", models=["sandbox/chat"])
    assert {chunk["model"] for chunk in told.chunks} == {"sandbox/chat"}
    await gateway.ended(2)
    assert {row["model"] for row in await gateway.usage()} == {"sandbox/chat"}


@pytest.mark.parametrize(
    ("preference", "served"),
    [
        (None, "openrouter"),
        ("portkey", "portkey"),
        ({"order": ["portkey"]}, "portkey"),
        ({"only": ["portkey"]}, "portkey"),
        ({"ignore": ["openrouter"]}, "portkey"),
        ({"max_price": {"prompt": 0.1}}, "portkey"),
        ({"max_price": {"completion": "0.1"}}, None),
        ({"order": ["openrouter"], "allow_fallbacks": False}, "openrouter"),
        ("chutes", None),
    ],
)
async def test_a_callers_preferences(gateway: InProcess, upstream: Upstream, preference: Any, served: str | None):
    gateway.connect("openrouter", upstream.url)
    gateway.connect("portkey", upstream.url)
    await gateway.books.execute("update gateway.offers set prompt_price = 90000000 where provider = 'portkey'")
    upstream.will(whole(answer()))
    response = await gateway.ask(model=GPT, **({"provider": preference} if preference else {}))
    assert response.headers.get("x-gateway-provider") == served
    if served is None:
        assert (response.status_code, response.json()["error"]["param"]) == (400, "provider")


async def test_without_fallbacks_nobody_else_is_asked(gateway: InProcess, upstream: Upstream):
    gateway.connect("openrouter", upstream.url)
    gateway.connect("portkey", upstream.url)
    upstream.will(whole(b"", 500), whole(answer()))
    response = await gateway.ask(model=GPT, provider={"allow_fallbacks": False})
    assert (response.status_code, len(upstream.requests)) == (502, 1)


async def test_silence_is_filled_with_comments(gateway: InProcess, upstream: Upstream, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(completions, "STATUS_HELD_S", 0.02)
    monkeypatch.setattr(base, "KEEP_ALIVE_S", 0.02)
    gateway.connect("openrouter", upstream.url)
    upstream.will(streamed(0.2, delta("Hello"), 0.2, finish(), usage(), DONE))
    async with gateway.reading(model=GPT) as chunks:
        body = b"".join([chunk async for chunk in chunks])
    assert body.startswith(b": keep-alive\n\n: keep-alive\n\n")
    before, _, after = body.partition(b"Hello")
    assert before.count(b": keep-alive") > 1 < after.count(b": keep-alive")
    assert body.endswith(b"data: [DONE]\n\n")


async def test_a_failure_after_the_status_is_an_event(
    gateway: InProcess, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(completions, "STATUS_HELD_S", 0.02)
    monkeypatch.setattr(base, "IDLE_S", 0.1)
    gateway.connect("openrouter", upstream.url)
    upstream.will((Fault.STALL,))
    before = await gateway.balance()
    told: Told = await gateway.stream(model=GPT)
    assert told.error is not None
    assert (told.status, told.error["code"], told.done) == (200, "provider_timeout", True)
    assert told.comments
    assert await gateway.ended() == ["released"]
    assert await gateway.balance() == before


async def test_in_production_the_sandbox_is_not_sold(gateway: InProcess, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(providers, "settings", settings.load({**os.environ, "STAGE": "production"}))
    assert (await gateway.ask()).status_code == 503
    quote = await gateway.client.post(
        "/v1/quote", headers=gateway.headers(), json={"model": "sandbox/chat", "messages": HELLO}
    )
    assert quote.status_code == 503
    gateway.key = await gateway.a_key("test")
    assert (await gateway.ask()).status_code == 200
    await gateway.ended()


async def test_a_test_key_only_reaches_the_sandbox(gateway: InProcess, upstream: Upstream):
    gateway.connect("openrouter", upstream.url)
    before = await gateway.balance()
    gateway.key = await gateway.a_key("test")
    response = await gateway.ask(model=GPT)
    assert (response.status_code, response.headers["x-gateway-provider"]) == (200, "sandbox")
    assert (upstream.requests, response.headers["x-gateway-cost-usd"]) == ([], "0")
    await gateway.ended()
    assert await gateway.balance() == before


async def test_an_empty_stream_ends_with_what_providers_leave_out(gateway: InProcess, upstream: Upstream):
    gateway.connect("openrouter", upstream.url)
    parts = {"index": 0, "delta": {"tool_calls": [{"id": "", "function": {"name": "f", "arguments": "{}"}}]}}
    upstream.will(streamed(event({"choices": [parts]}), DONE))
    told = await gateway.stream(model=GPT)
    first, last = told.choices()
    assert first["delta"]["tool_calls"] == [{"index": 0, "function": {"name": "f", "arguments": "{}"}}]
    assert (first["finish_reason"], last["finish_reason"]) == (None, "stop")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_refusal_after_admission_has_a_receipt(gateway: InProcess, *, stream: bool):
    refused = await gateway.ask(model="sandbox/error", stream=stream)
    assert refused.status_code == 502
    (hold,) = await gateway.rows("select id from gateway.credit_holds")
    assert refused.headers["x-generation-id"] == f"gen-{hold['id']}"
    assert int(refused.headers["x-ratelimit-remaining-requests"]) >= 0
    headers = {"x-api-key": gateway.key}
    asked = {"model": "sandbox/error", "max_tokens": 5, "messages": HELLO}
    message = await gateway.client.post("/v1/messages", headers=headers, json=asked)
    assert message.headers["x-generation-id"].startswith("gen-")
    before = await gateway.ask(model="nobody/nothing", stream=stream)
    assert "x-generation-id" not in before.headers
