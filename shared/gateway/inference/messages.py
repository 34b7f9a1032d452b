"""A completion told as Anthropic's Messages API tells it: a message of blocks, or the events that build it.

    message_start, (content_block_start, content_block_delta…, content_block_stop)…, message_delta, message_stop

One block is open at a time. https://docs.anthropic.com/en/docs/build-with-claude/streaming
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway import sse
from gateway.errors import GatewayError
from gateway.inference import replay
from gateway.inference.requests import decode

REASONS = {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use", "content_filter": "refusal"}
ERRORS = {
    400: "invalid_request_error", 401: "authentication_error", 402: "billing_error", 403: "permission_error",
    404: "not_found_error", 413: "request_too_large", 422: "invalid_request_error", 429: "rate_limit_error",
    503: "overloaded_error", 504: "timeout_error",
}  # fmt: skip

_encode = msgspec.json.Encoder().encode


def error_body(error: GatewayError, request_id: str) -> dict[str, Any]:
    """A refusal as Anthropic's SDKs read it (https://docs.anthropic.com/en/api/errors), with what ours have besides."""
    body = error.body(request_id)
    return {"type": "error", **body, "error": {**body["error"], **_error(error)}}


def _error(error: GatewayError) -> dict[str, Any]:
    told = error.error()
    return {"type": ERRORS.get(error.status, "api_error"), "message": told["message"], "code": told["code"]}


class Messages:
    """The dialect of POST /v1/messages."""

    keep_alive = sse.named("ping", b'{"type":"ping"}')
    may_keep = True

    def __init__(self, likely_prompt_tokens: int) -> None:
        self._likely = likely_prompt_tokens
        """Told at the start of a stream, when nobody knows better; the end of it says what it was."""
        self._message: dict[str, Any] = {}
        self._events: list[bytes] = []
        self._call: int | None = None
        """The index of the tool call whose block is open."""
        self._is_open = False
        self._pieces: list[str] = []
        """Of the block that is open; joined when it ends."""
        self._reason = "stop"

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]:
        for chunk in replay.chunks(completion, include_usage=False):
            self.chunk(chunk)
        self.end(replay.identity(completion, include_usage=False), completion["usage"])
        return self._message

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        self._begin(chunk)
        for choice in chunk["choices"]:
            self._reason = choice.get("finish_reason") or self._reason
            delta = choice.get("delta") or {}
            if thought := delta.get("reasoning_content") or delta.get("reasoning"):
                self._speak("thinking", thought)
            if text := delta.get("content") or delta.get("refusal"):
                self._speak("text", text)
            for call in delta.get("tool_calls") or ():
                self._use(call)
        return self._flushed()

    def end(self, identity: dict[str, Any], usage: dict[str, Any]) -> bytes:
        self._begin(identity)
        self._close()
        self._message |= {"stop_reason": REASONS.get(self._reason, "end_turn"), "usage": _usage(usage)}
        delta = {name: self._message[name] for name in ("stop_reason", "stop_sequence")}
        self._tell("message_delta", delta=delta, usage=self._message["usage"])
        self._tell("message_stop")
        return self._flushed()

    def broken(self, identity: dict[str, Any], error: GatewayError) -> bytes:
        self._begin(identity)
        self._tell("error", error=_error(error))
        return self._flushed()

    def memory(self) -> dict[str, Any] | None:
        return None

    def _begin(self, head: dict[str, Any]) -> None:
        if self._message:
            return
        self._message = {
            "id": "msg_" + head["id"].removeprefix("gen-").replace("-", ""),
            "type": "message",
            "role": "assistant",
            "model": head["model"],
            "content": [],
            "stop_reason": None,
            "stop_sequence": None,
            "usage": {"input_tokens": self._likely, "output_tokens": 0},
        }
        self._tell("message_start", message=self._message)

    def _speak(self, kind: str, text: str) -> None:
        blocks = self._message["content"]
        if not self._is_open or blocks[-1]["type"] != kind:
            self._open({"type": kind, kind: "", **({"signature": ""} if kind == "thinking" else {})})
        self._pieces.append(text)
        self._tell("content_block_delta", index=len(blocks) - 1, delta={"type": f"{kind}_delta", kind: text})

    def _use(self, fragment: dict[str, Any]) -> None:
        function = fragment.get("function") or {}
        if not self._is_open or self._call != fragment["index"]:
            name, called = function.get("name") or "", fragment.get("id") or f"toolu_{fragment['index']}"
            self._open({"type": "tool_use", "id": called, "name": name, "input": {}})
            self._call = fragment["index"]
        if arguments := function.get("arguments"):
            self._pieces.append(arguments)
            delta = {"type": "input_json_delta", "partial_json": arguments}
            self._tell("content_block_delta", index=len(self._message["content"]) - 1, delta=delta)

    def _open(self, block: dict[str, Any]) -> None:
        self._close()
        self._message["content"].append(block)
        self._is_open, self._pieces = True, []
        self._tell("content_block_start", index=len(self._message["content"]) - 1, content_block=block)

    def _close(self) -> None:
        if not self._is_open:
            return
        block, whole = self._message["content"][-1], "".join(self._pieces)
        if self._call is None:
            block[block["type"]] = whole
        else:
            block["input"] = _input(whole)
        self._is_open, self._call = False, None
        self._tell("content_block_stop", index=len(self._message["content"]) - 1)

    def _tell(self, name: str, /, **members: Any) -> None:
        self._events.append(sse.named(name, _encode({"type": name, **members})))

    def _flushed(self) -> bytes:
        told, self._events = b"".join(self._events), []
        return told


def _input(arguments: str) -> Any:
    """A tool call's arguments as an object; what a model wrote that is none is kept as a text in one."""
    try:
        value = decode(arguments.encode()) if arguments else {}
    except GatewayError:
        value = None
    return value if isinstance(value, dict) else {"arguments": arguments}


def _usage(usage: dict[str, Any]) -> dict[str, Any]:
    """A completion's usage in Anthropic's words: what a cache gave or took is not in input_tokens."""
    details = usage.get("prompt_tokens_details") or {}
    cached, written = details.get("cached_tokens") or 0, details.get("cache_write_tokens") or 0
    return {
        "input_tokens": max(0, usage["prompt_tokens"] - cached - written),
        "cache_read_input_tokens": cached,
        "cache_creation_input_tokens": written,
        "output_tokens": usage["completion_tokens"],
    }
