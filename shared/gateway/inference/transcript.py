"""A streamed completion: each chunk put right for the client, and what was seen of the answer remembered for the bill.

Put right, because clients depend on it and compatible providers get it wrong: the first delta of a choice has the role,
finish_reason is null until the end and never "", a tool call has an index and no empty id, and a chunk without choices
(where usage comes) is not sent on.
"""

from __future__ import annotations

from typing import Any

from gateway.inference import metering
from gateway.inference.metering import Usage

SPOKEN = ("content", "reasoning", "reasoning_content", "refusal")
"""Members of a delta that hold text the model wrote."""


class Transcript:
    """Of one attempt at one provider. `keep` also assembles the whole answer, for an Idempotency-Key."""

    def __init__(self, *, keep: bool) -> None:
        self.usage: Usage | None = None
        self.upstream_id: str | None = None
        self.seen_bytes = 0
        self.seen_chunks = 0
        self.finish_reasons: dict[int, str | None] = {}
        self._messages: dict[int, dict[str, Any]] | None = {} if keep else None

    @property
    def begun(self) -> bool:
        """Whether anything came that a client would miss."""
        return self.seen_chunks > 0 or any(self.finish_reasons.values())

    @property
    def finish_reason(self) -> str | None:
        return self.finish_reasons.get(0)

    def take(self, chunk: dict[str, Any]) -> bool:
        """Note a chunk and put it right in place; whether it is one for the client."""
        if (reported := chunk.pop("usage", None)) is not None:
            self.usage = metering.usage_of(reported) or self.usage
        if self.upstream_id is None and isinstance(chunk.get("id"), str):
            self.upstream_id = chunk["id"][:200]
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices:
            return False
        for position, choice in enumerate(choices):
            if isinstance(choice, dict):
                self._take_choice(choice, position)
        return True

    def _take_choice(self, choice: dict[str, Any], position: int) -> None:
        index = choice.setdefault("index", position)
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            delta = choice["delta"] = {}
        if index not in self.finish_reasons:
            self.finish_reasons[index] = None
            delta.setdefault("role", "assistant")
        reason = choice["finish_reason"] = choice.get("finish_reason") or None
        if reason is not None:
            self.finish_reasons[index] = str(reason)
        written = _written(delta)
        if written:
            self.seen_bytes += written
            self.seen_chunks += 1
        if self._messages is not None:
            _assemble(self._messages.setdefault(index, {"role": "assistant", "content": None}), delta)

    def take_whole(self, completion: dict[str, Any]) -> None:
        """Note a completion that came in one piece."""
        self.usage = metering.usage_of(completion.get("usage"))
        self.upstream_id = completion["id"][:200] if isinstance(completion.get("id"), str) else None
        for position, choice in enumerate(completion["choices"]):
            if isinstance(choice, dict):
                reason = choice.get("finish_reason")
                self.finish_reasons[position] = str(reason) if reason else None
                self.seen_bytes += _written(choice.get("message") or {}, fragments=False)

    def unfinished(self) -> list[int]:
        """The choices of a whole answer that the provider gave no finish_reason; they get "stop"."""
        missing = [index for index, reason in self.finish_reasons.items() if reason is None]
        self.finish_reasons |= dict.fromkeys(missing, "stop")
        return missing

    def choices(self) -> list[dict[str, Any]]:
        """The assembled answer's choices (only with `keep`)."""
        messages = self._messages or {}
        return [
            {"index": index, "message": message, "finish_reason": self.finish_reasons.get(index) or "stop"}
            for index, message in sorted(messages.items())
        ]


def _written(delta: dict[str, Any], *, fragments: bool = True) -> int:
    """Bytes of model output in a delta or a message; the tool calls of a delta (`fragments`) are put right on the
    way.
    """
    written = 0
    for name in SPOKEN:
        if isinstance(text := delta.get(name), str) and text:
            written += len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
    calls = delta.get("tool_calls")
    for position, call in enumerate(calls if isinstance(calls, list) else ()):
        if fragments:
            call.setdefault("index", position)
            if not call.get("id", True):
                del call["id"]
        function = call.get("function") or {}
        written += len((function.get("arguments") or "") + (function.get("name") or ""))
    return written


def _assemble(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a delta to the message it is part of."""
    for name in SPOKEN:
        if isinstance(text := delta.get(name), str):
            message[name] = (message.get(name) or "") + text
    for call in delta.get("tool_calls") or ():
        calls = message.setdefault("tool_calls", [])
        while len(calls) <= call["index"] < 512:
            calls.append({"id": "", "type": "function", "function": {"name": "", "arguments": ""}})
        known, function = calls[call["index"]], call.get("function") or {}
        known["id"] = call.get("id") or known["id"]
        known["function"]["name"] += function.get("name") or ""
        known["function"]["arguments"] += function.get("arguments") or ""
