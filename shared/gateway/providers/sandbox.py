"""The sandbox: a provider without a network. The same request always gets the same answer, tokens and faults included.

It answers like a model would: text, tool calls when tools are offered, an object in JSON mode, images counted. The last
part of the model's name chooses a fault:

    rate-limited  429 with Retry-After: 7      cut        the connection breaks mid-answer
    error         500                          malformed  an event that is not JSON
    hang          never answers                no-usage   no usage at the end
    stall         stops after a few tokens     over-long  an event above the size limit
    slow          first token after 12 s
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from gateway import sse
from gateway.errors import ProviderError
from gateway.outbound import Reply
from gateway.providers import sandbox_media
from gateway.providers.base import CHAT, EMBEDDINGS, Provider

SLOW_S = 12.0
NEVER_S = 86_400.0
BYTES_PER_TOKEN = 4
MESSAGE_TOKENS = 3
IMAGE_TOKENS = 85
MAX_SCHEMA_DEPTH = 8

type Timeline = Iterator[tuple[float, bytes]]
"""What is sent: seconds to wait, then bytes."""


class Sandbox(Provider):
    name = "sandbox"

    def __init__(self) -> None:
        """Needs no address and no key."""

    async def send(self, body: dict[str, Any], route: str = CHAT) -> Reply:
        fault = body["model"].rpartition("/")[2]
        if fault == "hang":
            await asyncio.sleep(NEVER_S)
        if fault == "rate-limited":
            return _Script(429, {"retry-after": "7"}, iter([(0.0, b'{"error":{"message":"slow down","code":429}}')]))
        if fault == "error":
            return _Script(500, {}, iter([(0.0, b'{"error":{"message":"broken","code":500}}')]))
        if route == CHAT:
            answer = _answer(body)
        else:
            answer = sandbox_media.embeddings(body) if route == EMBEDDINGS else sandbox_media.images(body)
        return _Script(200, {}, _streamed(answer, fault) if body.get("stream") else _whole(answer, fault))


class _Script:
    """A Reply that follows a timeline."""

    def __init__(self, status: int, headers: Mapping[str, str], timeline: Timeline) -> None:
        self.status, self.headers, self._timeline = status, headers, timeline
        self._due, self._next = 0.0, b""

    async def read(self, wait: float) -> bytes | None:
        if not self._due:
            delay, self._next = next(self._timeline, (0.0, b""))
            self._due = time.monotonic() + delay
        remaining = self._due - time.monotonic()
        if remaining > wait:
            await asyncio.sleep(wait)
            return None
        if remaining > 0:
            await asyncio.sleep(remaining)
        self._due = 0.0
        if self._next == _CUT:
            raise ProviderError("The provider broke off its answer.")
        return self._next

    def close(self) -> None:
        self._timeline = iter(())


_CUT = b"\0cut"


def _whole(answer: dict[str, Any], fault: str) -> Timeline:
    encoded = msgspec.json.encode(answer)
    if fault == "no-usage":
        encoded = msgspec.json.encode({name: value for name, value in answer.items() if name != "usage"})
    if fault == "malformed":
        encoded = encoded[: len(encoded) // 2]
    if fault in ("cut", "stall"):
        yield 0.0, encoded[: len(encoded) // 2]
        yield (NEVER_S, b"") if fault == "stall" else (0.0, _CUT)
    elif fault == "over-long":
        yield 0.0, encoded[:-1]
        for _ in range(40):
            yield 0.0, b" " * sse.MAX_EVENT_BYTES
    else:
        yield SLOW_S if fault == "slow" else 0.0, encoded


def _streamed(answer: dict[str, Any], fault: str) -> Timeline:
    """The answer as chunks: role, deltas, finish_reason, usage, [DONE]; a fault strikes after the fourth."""
    for sent, chunk in enumerate(_chunks(answer)):
        if sent == 4 and fault == "malformed":
            yield 0.0, sse.event(b'{"choices":[{"delta":')
        if sent == 4 and fault == "over-long":
            yield 0.0, b"data: " + b"x" * (sse.MAX_EVENT_BYTES + 1)
        if sent == 4 and fault == "cut":
            yield 0.0, _CUT
        if sent == 4 and fault == "stall":
            yield NEVER_S, b""
        if not chunk["choices"] and fault == "no-usage":
            continue
        yield SLOW_S if fault == "slow" and sent == 0 else 0.0, sse.event(msgspec.json.encode(chunk))
    yield 0.0, sse.event(sse.DONE)


def _chunks(answer: dict[str, Any]) -> Iterator[dict[str, Any]]:
    head = {
        "id": answer["id"],
        "object": "chat.completion.chunk",
        "created": answer["created"],
        "model": answer["model"],
    }
    for choice in answer["choices"]:
        index, message = choice["index"], choice["message"]
        deltas: list[dict[str, Any]] = [{"role": "assistant", "content": ""}]
        deltas += [{"content": piece} for piece in _pieces(message["content"] or "")]
        for position, call in enumerate(message.get("tool_calls", ())):
            opening = {
                **call,
                "index": position,
                "function": {"name": call["function"]["name"], "arguments": ""},
            }
            deltas.append({"tool_calls": [opening]})
            for piece in _pieces(call["function"]["arguments"]):
                deltas.append({"tool_calls": [{"index": position, "function": {"arguments": piece}}]})
        for delta in deltas:
            yield {**head, "choices": [{"index": index, "delta": delta, "finish_reason": None}]}
        yield {**head, "choices": [{"index": index, "delta": {}, "finish_reason": choice["finish_reason"]}]}
    yield {**head, "choices": [], "usage": answer["usage"]}


def _pieces(text: str) -> Iterator[str]:
    for start in range(0, len(text), BYTES_PER_TOKEN):
        yield text[start : start + BYTES_PER_TOKEN]


def _tokens(text: str) -> int:
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def _answer(body: dict[str, Any]) -> dict[str, Any]:
    """A whole completion for a request."""
    said = [_said(message) for message in body["messages"]]
    prompt = sum(_tokens(text) + MESSAGE_TOKENS + IMAGE_TOKENS * images for text, images in said)
    budget = min(body.get(name) or 4096 for name in ("max_tokens", "max_completion_tokens"))
    message, reason = _message(body, budget)
    written = message["content"] or "".join(call["function"]["arguments"] for call in message.get("tool_calls", ()))
    choices = [
        {"index": n, "message": message, "logprobs": None, "finish_reason": reason} for n in range(body.get("n") or 1)
    ]
    usage = {"prompt_tokens": prompt, "completion_tokens": max(1, _tokens(written)) * len(choices)}
    return {
        "id": "sandbox-" + hashlib.sha256(msgspec.json.encode(body)).hexdigest()[:24],
        "object": "chat.completion",
        "created": 1_767_225_600,
        "model": body["model"],
        "choices": choices,
        "usage": {**usage, "total_tokens": sum(usage.values())},
    }


def _message(body: dict[str, Any], budget: int) -> tuple[dict[str, Any], str]:
    """What the assistant says within a budget of tokens, and why it stopped."""
    last = body["messages"][-1]
    tools = body.get("tools") or []
    choice = body.get("tool_choice")
    if tools and choice != "none" and last["role"] != "tool":
        return {
            "role": "assistant",
            "content": None,
            "tool_calls": [_call(tools, choice, body)],
        }, "tool_calls"
    text, images = _said(last)
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        answer = msgspec.json.encode(_example((wanted.get("json_schema") or {}).get("schema") or {})).decode()
    elif wanted.get("type") == "json_object":
        answer = msgspec.json.encode({"you_said": text}).decode()
    else:
        seen = f" I see {images} image{'s' * (images > 1)}." if images else ""
        answer = f"You said: {text}{seen} This is the sandbox: it answers the same every time."
    cut = answer.encode()[: budget * BYTES_PER_TOKEN].decode(errors="ignore")
    return {"role": "assistant", "content": cut, "refusal": None}, "stop" if cut == answer else "length"


def _said(message: dict[str, Any]) -> tuple[str, int]:
    """The text of a message, and how many images it has."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content, 0
    texts = [str(part.get("text", "")) for part in content if part.get("type") == "text"]
    return " ".join(texts), sum(part.get("type") == "image_url" for part in content)


def _call(tools: list[dict[str, Any]], choice: Any, body: dict[str, Any]) -> dict[str, Any]:
    """A call of the chosen tool, or of the first one, with an example of its arguments."""
    functions = [tool.get("function") or {} for tool in tools]
    chosen = (choice.get("function") or {}).get("name") if isinstance(choice, dict) else None
    function = next((f for f in functions if f.get("name") == chosen), functions[0])
    seed = hashlib.sha256(msgspec.json.encode(body["messages"])).hexdigest()[:24]
    arguments = msgspec.json.encode(_example(function.get("parameters") or {})).decode()
    name = str(function.get("name", ""))
    return {"id": f"call_{seed}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _example(schema: Any, depth: int = 0) -> Any:
    """A small value that fits a JSON schema's types, enums and properties."""
    if not isinstance(schema, dict) or depth > MAX_SCHEMA_DEPTH:
        return None
    for name in ("enum", "anyOf", "oneOf"):
        if options := schema.get(name):
            return options[0] if name == "enum" else _example(options[0], depth + 1)
    kind = schema.get("type", "object" if "properties" in schema or depth == 0 else "string")
    if isinstance(kind, list):
        kind = kind[0]
    if kind == "object":
        return {name: _example(member, depth + 1) for name, member in (schema.get("properties") or {}).items()}
    if kind == "array":
        return [_example(schema.get("items") or {}, depth + 1)]
    return schema.get("const", {"integer": 1, "number": 1, "boolean": True, "null": None}.get(kind, "sandbox"))
