"""A streamed completion: each chunk put right for the client, and what was seen of the answer remembered for the bill.

Put right, because clients depend on it and compatible providers get it wrong: the first delta of a choice has the role,
finish_reason is null until the end and never "", a tool call has an index and no empty id, and a chunk without choices
(where usage comes) is not sent on.
"""

from __future__ import annotations

from typing import Any

from gateway.inference import metering
from gateway.inference.metering import Usage

MAX_INDEX = 512
"""No answer has more choices, and no message more tool calls."""
MAX_WORD = 200
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
        self._messages: dict[int, _Message] | None = {} if keep else None

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
            self.upstream_id = _stored(chunk["id"])
        choices = chunk.get("choices")
        if not isinstance(choices, list) or not choices:
            return False
        for position, choice in enumerate(choices):
            if isinstance(choice, dict):
                self._take_choice(choice, position)
        return True

    def _take_choice(self, choice: dict[str, Any], position: int) -> None:
        index = choice["index"] = _index(choice, position)
        delta = choice.get("delta")
        if not isinstance(delta, dict):
            delta = choice["delta"] = {}
        if index not in self.finish_reasons:
            self.finish_reasons[index] = None
            delta["role"] = delta.get("role") or "assistant"
        reason = choice["finish_reason"] = _reason(choice)
        if reason is not None:
            self.finish_reasons[index] = reason
        written = _written(delta)
        if written:
            self.seen_bytes += written
            self.seen_chunks += 1
        if self._messages is not None:
            self._messages.setdefault(index, _Message()).add(delta)

    def take_whole(self, completion: dict[str, Any]) -> None:
        """Note a completion that came in one piece, and put it right in place."""
        self.usage = metering.usage_of(completion.get("usage"))
        self.upstream_id = _stored(completion["id"]) if isinstance(completion.get("id"), str) else None
        for position, choice in enumerate(completion["choices"]):
            choice["index"] = _index(choice, position)
            choice["message"]["role"] = "assistant"
            self.finish_reasons[position] = choice["finish_reason"] = _reason(choice) or "stop"
            self.seen_bytes += _written(choice["message"], fragments=False)

    def unfinished(self) -> list[int]:
        """The choices of a whole answer that the provider gave no finish_reason; they get "stop"."""
        missing = [index for index, reason in self.finish_reasons.items() if reason is None]
        self.finish_reasons |= dict.fromkeys(missing, "stop")
        return missing

    def choices(self) -> list[dict[str, Any]]:
        """The assembled answer's choices (only with `keep`)."""
        messages = self._messages or {}
        return [
            {"index": index, "message": message.whole(), "finish_reason": self.finish_reasons.get(index) or "stop"}
            for index, message in sorted(messages.items())
        ]


def _written(delta: dict[str, Any], *, fragments: bool = True) -> int:
    """Bytes of model output in a delta or a message; a delta's tool calls (`fragments`) are put right on the way."""
    written = 0
    for name in SPOKEN:
        if isinstance(text := delta.get(name), str) and text:
            written += _size(text)
    for position, call in enumerate(_calls(delta)):
        if fragments:
            call["index"] = _index(call, position)
            if not call.get("id", True):
                del call["id"]
        written += sum(map(_size, _function(call)))
    return written


class _Message:
    """A message that is put together of deltas: pieces are joined once, at its end."""

    def __init__(self) -> None:
        self._texts: dict[str, list[str]] = {}
        self._calls: list[_Pieces] = []

    def add(self, delta: dict[str, Any]) -> None:
        for name in SPOKEN:
            if isinstance(text := delta.get(name), str):
                self._texts.setdefault(name, []).append(text)
        for call in _calls(delta):
            while len(self._calls) <= call["index"]:
                self._calls.append(_Pieces())
            self._calls[call["index"]].add(call)

    def whole(self) -> dict[str, Any]:
        texts = {name: "".join(pieces) for name, pieces in self._texts.items()}
        calls = {"tool_calls": [call.whole() for call in self._calls]} if self._calls else {}
        return {"role": "assistant", "content": None, **texts, **calls}


class _Pieces:
    """A tool call that is put together of fragments."""

    def __init__(self) -> None:
        self._id = ""
        self._names: list[str] = []
        self._arguments: list[str] = []

    def add(self, call: dict[str, Any]) -> None:
        self._id = call.get("id") or self._id
        name, arguments = _function(call)
        self._names.append(name)
        self._arguments.append(arguments)

    def whole(self) -> dict[str, Any]:
        function = {"name": "".join(self._names), "arguments": "".join(self._arguments)}
        return {"id": self._id, "type": "function", "function": function}


def _index(member: dict[str, Any], position: int) -> int:
    """The index that a choice or tool call says it has, or else its position."""
    said = member.get("index")
    return said if type(said) is int and 0 <= said < MAX_INDEX else position


def _reason(choice: dict[str, Any]) -> str | None:
    said = choice.get("finish_reason")
    return _stored(said) or None if isinstance(said, str) else None


def _stored(text: str) -> str:
    """A provider's word as it is booked: not for ever, and without NUL, which Postgres refuses with the settlement."""
    return text[:MAX_WORD].replace("\0", "")


def _calls(delta: dict[str, Any]) -> list[dict[str, Any]]:
    calls = delta.get("tool_calls")
    return [call for call in calls if isinstance(call, dict)] if isinstance(calls, list) else []


def _function(call: dict[str, Any]) -> tuple[str, str]:
    """The name and the arguments of a tool call, or what a fragment of one adds to them."""
    function = call.get("function")
    name, arguments = (function.get(part) if isinstance(function, dict) else "" for part in ("name", "arguments"))
    return name if isinstance(name, str) else "", arguments if isinstance(arguments, str) else ""


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))
