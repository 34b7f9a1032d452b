"""POST /v1/messages: Anthropic's shapes over the same providers and the same ledger."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness.gateway import DONE, GPT, answer, delta, event, finish, usage
from tests.harness.upstream import Fault, Upstream, streamed, whole

if TYPE_CHECKING:
    import httpx

    from tests.harness.gateway import InProcess

ASKED = {"model": GPT, "max_tokens": 50, "messages": [{"role": "user", "content": "Hello"}]}
TOOL = {"name": "look", "description": "Looks", "input_schema": {"type": "object", "properties": {}}}


async def ask(gateway: InProcess, **body: Any) -> httpx.Response:
    headers = {"x-api-key": gateway.key, "anthropic-version": "2023-06-01"}
    return await gateway.client.post("/v1/messages", headers=headers, json=ASKED | body)


async def told(gateway: InProcess, **body: Any) -> list[dict[str, Any]]:
    """The events of a streamed message; each is named as its type is."""
    answered = await ask(gateway, stream=True, **body)
    assert answered.status_code == 200, answered.text
    events = []
    for block in answered.text.split("\n\n")[:-1]:
        name, data = block.split("\n")
        events.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {events[-1]['type']}"
    return events


async def test_what_is_asked_reaches_the_provider_as_a_completion(gateway: InProcess, upstream: Upstream):
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(answer()))
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AAAA"}}
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "Hm.", "signature": "x"},
            {"type": "text", "text": "I look."},
            {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "it"}},
        ]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "a boat"}]},
            {"type": "text", "text": "And?"},
        ]},
    ]  # fmt: skip
    response = await ask(
        gateway, messages=messages, system=[{"type": "text", "text": "Be brief."}], tools=[TOOL], stop_sequences=["."],
        tool_choice={"type": "any", "disable_parallel_tool_use": True}, metadata={"user_id": "u"}, top_k=5,
    )  # fmt: skip
    assert response.status_code == 200, response.text
    asked = json.loads(upstream.requests[0].body)
    shown = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
    call = {"id": "t1", "type": "function", "function": {"name": "look", "arguments": '{"at":"it"}'}}
    assert asked["messages"] == [
        {"role": "system", "content": "Be brief."},
        {
            "role": "user",
            "content": [{"type": "text", "text": "What is this?"}, shown],
        },
        {"role": "assistant", "content": "I look.", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "t1", "content": "a boat"},
        {"role": "user", "content": "And?"},
    ]
    function = {"name": "look", "description": "Looks", "parameters": TOOL["input_schema"]}
    assert asked["tools"] == [{"type": "function", "function": function}]
    assert (asked["tool_choice"], asked["parallel_tool_calls"], asked["stop"]) == ("required", False, ["."])
    assert (asked["max_tokens"], asked["user"], asked["top_k"]) == (50, "u", 5)


async def test_an_answer_is_a_message_of_blocks(gateway: InProcess, upstream: Upstream):
    gateway.connect("openrouter", upstream.url)
    function = {"name": "look", "arguments": '{"at": "it"}'}
    said = {"role": "assistant", "reasoning": "Hm.", "content": "Hi", "tool_calls": [
        {"id": "t1", "type": "function", "function": function},
        {"id": "t2", "type": "function", "function": {"name": "look", "arguments": "not JSON"}},
    ]}  # fmt: skip
    choice = {"index": 0, "message": said, "finish_reason": "tool_calls"}
    details = {"prompt_tokens": 10, "completion_tokens": 5, "prompt_tokens_details": {"cached_tokens": 4}}
    upstream.will(whole(answer(choices=[choice], usage=details)))
    message = (await ask(gateway)).json()
    assert (message["type"], message["role"], message["stop_reason"]) == ("message", "assistant", "tool_use")
    assert message["content"] == [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "text", "text": "Hi"},
        {"type": "tool_use", "id": "t1", "name": "look", "input": {"at": "it"}},
        {"type": "tool_use", "id": "t2", "name": "look", "input": {"arguments": "not JSON"}},
    ]
    used = {"input_tokens": 6, "cache_read_input_tokens": 4, "cache_creation_input_tokens": 0, "output_tokens": 5}
    assert message["usage"] == used
    await gateway.ended()
    assert len(await gateway.usage()) == 1


async def test_one_block_of_a_stream_is_open_at_a_time(gateway: InProcess, upstream: Upstream):
    gateway.connect("openrouter", upstream.url)
    calls = []
    for index in (0, 1):
        call = {"index": index, "id": f"t{index}", "function": {"name": "look", "arguments": "{}"}}
        calls.append(event({"choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]}))
    upstream.will(streamed(delta("Hel"), delta("lo"), *calls, finish("tool_calls"), usage(), DONE))
    events = await told(gateway)
    assert [each["type"] for each in events] == [
        "message_start",
        *("content_block_start", "content_block_delta", "content_block_delta", "content_block_stop"),
        *("content_block_start", "content_block_delta", "content_block_stop") * 2,
        "message_delta",
        "message_stop",
    ]
    assert [each["index"] for each in events if "index" in each] == [0, 0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert events[-2]["delta"]["stop_reason"] == "tool_use"
    assert (events[-2]["usage"]["input_tokens"], events[-2]["usage"]["output_tokens"]) == (10, 5)


async def test_a_stream_that_breaks_ends_with_an_error(gateway: InProcess, upstream: Upstream):
    gateway.connect("openrouter", upstream.url)
    upstream.will(streamed(delta("Hello there"), Fault.CLOSE))
    events = await told(gateway)
    assert events[-1]["type"] == "error"
    assert events[-1]["error"]["type"] == "api_error"
    await gateway.ended()
    assert [row["outcome"] for row in await gateway.usage()] == ["cut"]


@pytest.mark.parametrize(
    ("body", "status", "kind"),
    [
        ({"max_tokens": 0}, 400, "invalid_request_error"),
        ({"model": "nobody/nothing"}, 404, "not_found_error"),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, 400, "invalid_request_error"),
        ({"messages": [{"role": "user", "content": [{"type": "hologram"}]}]}, 400, "invalid_request_error"),
        ({"tool_choice": {"type": "never"}, "tools": [TOOL]}, 400, "invalid_request_error"),
    ],
)
async def test_a_refusal_has_anthropics_shape(gateway: InProcess, body: dict[str, Any], status: int, kind: str):
    before = await gateway.tables()
    refused = await ask(gateway, **body)
    assert (refused.status_code, refused.json()["type"], refused.json()["error"]["type"]) == (status, "error", kind)
    assert refused.json()["request_id"] == refused.headers["x-request-id"]
    assert await gateway.tables() == before


async def test_anthropics_header_is_a_key_here_and_nowhere_else(gateway: InProcess):
    headers = {"x-api-key": gateway.key}
    body = {"model": "sandbox/chat", "messages": ASKED["messages"]}
    assert (await gateway.client.post("/v1/chat/completions", headers=headers, json=body)).status_code == 401
    wrong = await gateway.client.post("/v1/messages", headers={"x-api-key": "gw_dev_no"}, json=ASKED)
    assert (wrong.status_code, wrong.json()["error"]["type"]) == (401, "authentication_error")
