"""A completion told again: the chunks of a stream whose answer was kept under an Idempotency-Key."""

from __future__ import annotations

from typing import Any


def chunks(completion: dict[str, Any], *, include_usage: bool) -> list[dict[str, Any]]:
    """One delta with all of each choice's message, and its finish_reason."""
    head = identity(completion, include_usage=include_usage)
    told: list[dict[str, Any]] = []
    for choice in completion["choices"]:
        index, message = choice["index"], choice["message"]
        calls = [{**call, "index": position} for position, call in enumerate(message.get("tool_calls") or ())]
        delta = {**message, **({"tool_calls": calls} if calls else {})}
        told.append({**head, "choices": [{"index": index, "delta": delta, "finish_reason": None}]})
        told.append({**head, "choices": [{"index": index, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    return told


def identity(completion: dict[str, Any], *, include_usage: bool) -> dict[str, Any]:
    """The members that every chunk of it has."""
    head = {name: value for name, value in completion.items() if name != "usage"}
    return {**head, "object": "chat.completion.chunk", **({"usage": None} if include_usage else {})}
