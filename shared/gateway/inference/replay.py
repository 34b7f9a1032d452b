"""A completion told again: the chunks of a stream whose answer was kept under an Idempotency-Key."""

from __future__ import annotations

from typing import Any


def chunks(completion: dict[str, Any], *, include_usage: bool) -> list[dict[str, Any]]:
    """One delta with all of each choice's message, its finish_reason, and the usage if it is asked for."""
    usage = completion.pop("usage", None)
    head = {**completion, "object": "chat.completion.chunk"}
    if include_usage:
        head["usage"] = None
    told: list[dict[str, Any]] = []
    for choice in completion["choices"]:
        index, message = choice["index"], choice["message"]
        calls = [{**call, "index": position} for position, call in enumerate(message.get("tool_calls") or ())]
        delta = {**message, **({"tool_calls": calls} if calls else {})}
        told.append({**head, "choices": [{"index": index, "delta": delta, "finish_reason": None}]})
        told.append({**head, "choices": [{"index": index, "delta": {}, "finish_reason": choice["finish_reason"]}]})
    if include_usage:
        told.append({**head, "choices": [], "usage": usage})
    return told
