"""POST /v1/responses and what is stored of it: on the wire, where every event has its place."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from local import seed
from tests.harness.gateway import DONE, GPT, answer, delta, event, finish, usage
from tests.harness.upstream import Fault, Upstream, streamed, whole

if TYPE_CHECKING:
    from tests.harness.gateway import InProcess

ASKED = {"model": "sandbox/chat", "input": "Hello"}


async def ask(gateway: InProcess, **body: Any) -> dict[str, Any]:
    answered = await gateway.client.post("/v1/responses", headers=gateway.headers(), json=ASKED | body)
    assert answered.status_code == 200, answered.text
    told: dict[str, Any] = answered.json()
    return told


async def events(gateway: InProcess, **body: Any) -> list[dict[str, Any]]:
    """The events of a streamed response; each is named as its type is, and numbered."""
    answered = await gateway.client.post(
        "/v1/responses", headers=gateway.headers(), json=ASKED | body | {"stream": True}
    )
    assert answered.status_code == 200, answered.text
    told = []
    for block in answered.text.split("\n\n"):
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            told.append(json.loads(data.removeprefix("data: ")))
            assert name == f"event: {told[-1]['type']}"
    assert [each["sequence_number"] for each in told] == list(range(len(told)))
    return told


def a_call(index: int, arguments: str, **members: Any) -> bytes:
    call = {"index": index, "function": {"arguments": arguments, **({"name": "f"} if members else {})}, **members}
    return event({"id": "up-1", "choices": [{"index": 0, "delta": {"tool_calls": [call]}, "finish_reason": None}]})


async def test_a_text_is_a_message(gateway: InProcess):
    told = await ask(gateway, instructions="Be brief.", max_output_tokens=5, metadata={"a": "b"})
    assert told["id"].startswith("resp_")
    assert (told["object"], told["status"]) == ("response", "incomplete")
    assert told["incomplete_details"] == {"reason": "max_output_tokens"}
    (message,) = told["output"]
    assert (message["type"], message["role"], message["status"]) == ("message", "assistant", "completed")
    assert message["content"][0]["text"].startswith("You said: Hello")
    assert told["usage"]["output_tokens"] == 5
    assert told["usage"]["total_tokens"] == told["usage"]["input_tokens"] + 5
    assert (told["instructions"], told["max_output_tokens"], told["metadata"]) == ("Be brief.", 5, {"a": "b"})
    await gateway.ended()
    (used,) = await gateway.usage()
    assert told["gateway_usage"]["cost_usd"] == used["cost_nano"] / 10**9


async def test_every_event_names_what_was_added_before(gateway: InProcess, upstream: Upstream):
    """Reasoning, then a text, then two calls of functions whose fragments alternate."""
    gateway.connect("openrouter", upstream.url)
    thought = event({"id": "up-1", "choices": [{"index": 0, "delta": {"reasoning": "Hm."}, "finish_reason": None}]})
    calls = [a_call(0, "{", id="call_a"), a_call(1, "[", id="call_b"), a_call(0, "}"), a_call(1, "]")]
    upstream.will(streamed(thought, delta("Hel"), delta("lo"), *calls, finish("tool_calls"), usage(), DONE))
    told = await events(gateway, model=GPT)
    assert [each["type"] for each in told[:2]] == ["response.created", "response.in_progress"]
    added: dict[int, str] = {}
    texts: dict[int, str] = {}
    for each in told:
        place: int = each.get("output_index", -1)
        if each["type"] == "response.output_item.added":
            assert place == len(added)
            added[place] = each["item"]["id"]
        elif each["type"].endswith(".delta"):
            assert each["item_id"] == added[place]
            texts[place] = texts.get(place, "") + each["delta"]
        elif each["type"].endswith((".text.done", "_text.done", "arguments.done")):
            assert each.get("text", each.get("arguments")) == texts[place]
    assert list(texts.values()) == ["Hm.", "Hello", "{}", "[]"]
    assert told[-1]["type"] == "response.completed"
    output = told[-1]["response"]["output"]
    assert [item["type"] for item in output] == ["reasoning", "message", "function_call", "function_call"]
    assert [item["id"] for item in output] == list(added.values())
    assert [(item["call_id"], item["arguments"]) for item in output[2:]] == [("call_a", "{}"), ("call_b", "[]")]
    assert sum(each["type"] == "response.output_item.done" for each in told) == len(added)


async def test_a_stream_that_breaks_ends_as_failed_and_is_charged_for_what_was_seen(
    gateway: InProcess, upstream: Upstream
):
    gateway.connect("openrouter", upstream.url)
    upstream.will(streamed(delta("Hello there"), Fault.CLOSE))
    told = await events(gateway, model=GPT)
    assert told[-1]["type"] == "response.failed"
    assert told[-1]["response"]["error"]["code"] == "provider_error"
    await gateway.ended()
    (used,) = await gateway.usage()
    assert (used["outcome"], used["completion_tokens"]) == ("cut", 3)
    assert await gateway.rows("select from gateway.responses") == []


async def test_what_is_asked_reaches_the_provider_as_a_completion(gateway: InProcess, upstream: Upstream):
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(answer()))
    items = [
        {"role": "developer", "content": "Answer in verse."},
        {"role": "user", "content": [
            {"type": "input_text", "text": "What is this?"},
            {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "low"},
        ]},
        {"type": "reasoning", "id": "rs_1", "summary": []},
        {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"},
        {"type": "function_call", "call_id": "c2", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "a boat"},
    ]  # fmt: skip
    schema = {"type": "json_schema", "name": "thing", "schema": {"type": "object"}, "strict": True}
    tool = {"type": "function", "name": "look", "parameters": {"type": "object"}}
    await ask(
        gateway, model=GPT, input=items, tools=[tool], tool_choice={"type": "function", "name": "look"},
        text={"format": schema}, reasoning={"effort": "low"}, max_output_tokens=9, store=False,
    )  # fmt: skip
    asked = json.loads(upstream.requests[0].body)
    call = {"type": "function", "function": {"name": "look", "arguments": "{}"}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA", "detail": "low"}}
    assert asked["messages"] == [
        {"role": "system", "content": "Answer in verse."},
        {"role": "user", "content": [{"type": "text", "text": "What is this?"}, image]},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1", **call}, {"id": "c2", **call}]},
        {"role": "tool", "tool_call_id": "c1", "content": "a boat"},
    ]
    assert asked["tools"] == [{"type": "function", "function": {"name": "look", "parameters": {"type": "object"}}}]
    assert asked["tool_choice"] == {"type": "function", "function": {"name": "look"}}
    expected = {"name": "thing", "schema": {"type": "object"}, "strict": True}
    assert asked["response_format"] == {"type": "json_schema", "json_schema": expected}
    assert (asked["reasoning_effort"], asked["max_tokens"]) == ("low", 9)
    assert not {"input", "text", "store", "instructions"} & asked.keys()


REFUSED: dict[str, dict[str, Any]] = {
    "background": {"background": True},
    "a conversation": {"conversation": "conv_1"},
    "a prompt": {"prompt": {"id": "p"}},
    "a tool of OpenAI's": {"tools": [{"type": "web_search"}]},
    "an item of another kind": {"input": [{"type": "item_reference", "id": "x"}]},
    "a role of another kind": {"input": [{"role": "captain", "content": "x"}]},
    "a part of another kind": {"input": [{"role": "user", "content": [{"type": "input_video"}]}]},
    "a part that is none": {"input": [{"role": "user", "content": [5]}]},
    "no input": {"input": ""},
    "a number": {"input": 5},
    "a base_url": {"base_url": "http://127.0.0.1"},
}


async def test_what_is_not_supported_is_refused_by_name(gateway: InProcess):
    before = await gateway.tables()
    for name, body in REFUSED.items():
        answered = await gateway.client.post("/v1/responses", headers=gateway.headers(), json=ASKED | body)
        assert answered.status_code == 400, name
        assert answered.json()["error"]["param"] == next(iter(body)), name
    assert await gateway.tables() == before


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_response_follows_the_ones_before_it(gateway: InProcess, *, stream: bool):
    first = await ask(gateway, input="One.")
    if stream:
        second = (await events(gateway, input="Two.", previous_response_id=first["id"]))[-1]["response"]
    else:
        second = await ask(gateway, input="Two.", previous_response_id=first["id"])
    third = await ask(gateway, input="Three.", previous_response_id=second["id"])
    await gateway.ended(3)
    assert second["previous_response_id"] == first["id"]
    used = [row["prompt_tokens"] for row in await gateway.usage()]
    said = len(first["output"][0]["content"][0]["text"])
    assert used[0] < used[1] < used[2]
    assert used[1] - used[0] > said // 4
    assert third["status"] == "completed"


async def test_a_stored_response_is_read_listed_and_deleted(gateway: InProcess):
    made = await ask(gateway)
    path = f"/v1/responses/{made['id']}"
    read = await gateway.client.get(path, headers=gateway.headers())
    assert read.json() == {name: value for name, value in made.items() if name != "gateway_usage"}
    listed = (await gateway.client.get(f"{path}/input_items", headers=gateway.headers())).json()
    assert listed["data"][0]["content"] == [{"type": "input_text", "text": "Hello"}]
    stranger = await seed.add_user(gateway.books, "a stranger", credit_nano=10**9)
    other = (await seed.add_key(gateway.books, stranger)).plaintext
    follow = {**ASKED, "previous_response_id": made["id"]}
    for answered in (
        await gateway.client.get(path, headers=gateway.headers(key=other)),
        await gateway.client.delete(path, headers=gateway.headers(key=other)),
        await gateway.client.post("/v1/responses", headers=gateway.headers(key=other), json=follow),
        await gateway.client.get("/v1/responses/resp_no", headers=gateway.headers()),
    ):
        assert (answered.status_code, answered.json()["error"]["code"]) == (404, "not_found")
    gone = await gateway.client.delete(path, headers=gateway.headers())
    assert gone.json() == {"id": made["id"], "object": "response", "deleted": True}
    assert (await gateway.client.get(path, headers=gateway.headers())).status_code == 404


async def test_only_what_may_be_stored_is_and_for_thirty_days(gateway: InProcess):
    await ask(gateway, store=False)
    await gateway.ended()
    assert await gateway.rows("select from gateway.responses") == []
    made = await ask(gateway)
    await gateway.ended(2)
    await gateway.books.execute("update gateway.responses set expires_at = now()")
    path = f"/v1/responses/{made['id']}"
    assert (await gateway.client.get(path, headers=gateway.headers())).status_code == 404
    assert json.loads(await gateway.books.fetchval("select api.purge_responses()")) == {"purged": 1}


async def test_a_repeated_request_gets_the_same_response(gateway: InProcess):
    headers = gateway.headers({"idempotency-key": "k"})
    told = [(await gateway.client.post("/v1/responses", headers=headers, json=ASKED)).json() for _ in range(2)]
    assert told[0] == told[1]
    assert len(await gateway.usage()) == 1
    other = await gateway.client.post("/v1/embeddings", headers=headers, json=ASKED)
    assert other.status_code == 422
