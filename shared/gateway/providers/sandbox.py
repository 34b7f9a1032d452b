"""The sandbox: a provider without a network. The same request always gets the same answer, tokens and faults included.

It answers like a model would: text, tool calls when tools are offered, an object in JSON mode, images counted. The last
part of the model's name chooses a fault:

    rate-limited  429 with Retry-After: 7      cut        the connection breaks mid-answer
    error         500                          malformed  an event that is not JSON
    hang          never answers                no-usage   no usage at the end
    stall         stops after a few tokens     over-long  an event above the size limit
    slow          first token after 12 s

On every stage but `dev` a fault waits for 30 s at most, for one request of a user at a time; further ones get a 429.
What it answers is small, whatever is asked: 16 kB of text, 8 choices, 262,144 numbers of embeddings.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec

from gateway import sse, telemetry
from gateway.errors import InvalidRequest, ProviderError
from gateway.outbound import Reply
from gateway.providers import sandbox_media
from gateway.providers.base import CHAT, EMBEDDINGS, Provider
from gateway.settings import settings

SLOW_S = 12.0
NEVER_S = 86_400.0
MOST_WAIT_S = 30.0
"""A fault that waits does so no longer, where the waiting is paid for: on every stage but `dev`."""
WAITING = ("hang", "stall", "slow")
MAX_ECHO_BYTES = 16 << 10
MAX_SCHEMA_BYTES = 16 << 10
MAX_CHOICES = 8
TURNS = 16
"""Pieces of a stream that are sent before others have a turn: nothing else here ever waits."""
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
        self._waited_for: set[int] = set()

    async def send(self, body: dict[str, Any], route: str = CHAT) -> Reply:
        fault = body["model"].rpartition("/")[2]
        if fault == "error":
            return _Script(500, {}, iter([(0.0, b'{"error":{"message":"broken","code":500}}')]))
        user_id = _who_waits(fault)
        if fault == "rate-limited" or user_id in self._waited_for:
            return _Script(429, {"retry-after": "7"}, iter([(0.0, b'{"error":{"message":"slow down","code":429}}')]))
        if user_id is None:
            return await _answered(body, route, fault)
        self._waited_for.add(user_id)
        try:
            script = await _answered(body, route, fault)
        except BaseException:
            self._waited_for.discard(user_id)
            raise
        script.at_end = lambda: self._waited_for.discard(user_id)
        return script


def _who_waits(fault: str) -> int | None:
    """Whose request waits, where it does and one user may have one such request at a time."""
    request = telemetry.serving()
    if fault not in WAITING or settings.stage == "dev" or request is None:
        return None
    user_id: int | None = request.marks.get("user_id")
    return user_id


def _never_s() -> float:
    return NEVER_S if settings.stage == "dev" else MOST_WAIT_S


async def _answered(body: dict[str, Any], route: str, fault: str) -> _Script:
    """The answer to a request. Raises InvalidRequest for one that asks for too much, ProviderError after `hang`."""
    if fault == "hang":
        await asyncio.sleep(_never_s())
        raise ProviderError("The provider broke off its answer.")
    if route == CHAT:
        answer = _answer(body)
    else:
        answer = await sandbox_media.embeddings(body) if route == EMBEDDINGS else sandbox_media.images(body)
    return _Script(200, {}, _streamed(answer, fault) if body.get("stream") else _whole(answer, fault))


class _Script:
    """A Reply that follows a timeline."""

    def __init__(self, status: int, headers: Mapping[str, str], timeline: Timeline) -> None:
        self.status, self.headers, self._timeline = status, headers, timeline
        self._due, self._next, self._sent = 0.0, b"", 0
        self.at_end: Callable[[], None] = lambda: None

    async def read(self, wait: float) -> bytes | None:
        if not self._due:
            delay, self._next = next(self._timeline, (0.0, b""))
            self._due = time.monotonic() + delay
        remaining = self._due - time.monotonic()
        if remaining > wait:
            await asyncio.sleep(wait)
            return None
        self._sent += 1
        if remaining > 0 or self._sent % TURNS == 0:
            await asyncio.sleep(max(0.0, remaining))
        self._due = 0.0
        if self._next == _CUT:
            raise ProviderError("The provider broke off its answer.")
        return self._next

    def close(self) -> None:
        self._timeline = iter(())
        self.at_end()


_CUT = b"\0cut"


def _whole(answer: dict[str, Any], fault: str) -> Timeline:
    encoded = msgspec.json.encode(answer)
    if fault == "no-usage":
        encoded = msgspec.json.encode({name: value for name, value in answer.items() if name != "usage"})
    if fault == "malformed":
        encoded = encoded[: len(encoded) // 2]
    if fault in ("cut", "stall"):
        yield 0.0, encoded[: len(encoded) // 2]
        yield _never_s() if fault == "stall" else 0.0, _CUT
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
        if sent == 4 and fault in ("cut", "stall"):
            yield _never_s() if fault == "stall" else 0.0, _CUT
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
    """A whole completion for a request. Raises InvalidRequest for one that asks for too much."""
    if (body.get("n") or 1) > MAX_CHOICES:
        raise InvalidRequest(f"The sandbox answers with {MAX_CHOICES} choices at most.", param="n")
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
        answer = _written((wanted.get("json_schema") or {}).get("schema") or {}, "response_format")
    elif wanted.get("type") == "json_object":
        answer = msgspec.json.encode({"you_said": text}).decode()
    else:
        seen = f" I see {images} image{'s' * (images > 1)}." if images else ""
        answer = f"You said: {text}{seen} This is the sandbox: it answers the same every time."
    most = min(budget * BYTES_PER_TOKEN, MAX_ECHO_BYTES)
    cut = answer[:most].encode()[:most].decode(errors="ignore")
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
    arguments = _written(function.get("parameters") or {}, "tools")
    name = str(function.get("name", ""))
    return {"id": f"call_{seed}", "type": "function", "function": {"name": name, "arguments": arguments}}


def _written(schema: Any, param: str) -> str:
    """JSON that fits a schema; it is some times the schema's size at most. Raises InvalidRequest for a large one."""
    if len(msgspec.json.encode(schema)) > MAX_SCHEMA_BYTES:
        raise InvalidRequest(f"The sandbox takes schemas of {MAX_SCHEMA_BYTES:,} bytes at most.", param=param)
    return msgspec.json.encode(_example(schema)).decode()


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
