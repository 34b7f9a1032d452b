"""A kept completion told as a stream is the same completion."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from gateway.inference import replay
from gateway.inference.transcript import Transcript

CALL = {"id": "call_1", "type": "function", "function": {"name": "next_tide", "arguments": "{}"}}
CALLING = {"role": "assistant", "content": None, "tool_calls": [CALL]}
USAGE = {"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7, "cost": 0.001}
KEPT: dict[str, Any] = {
    "id": "gen-1",
    "object": "chat.completion",
    "created": 1,
    "model": "acme/tide",
    "provider": "sandbox",
    "choices": [
        {"index": 0, "message": {"role": "assistant", "content": "High at six."}, "finish_reason": "stop"},
        {"index": 1, "message": CALLING, "finish_reason": "tool_calls"},
    ],
    "usage": USAGE,
}


def told(*, include_usage: bool) -> list[dict[str, Any]]:
    return replay.chunks(copy.deepcopy(KEPT), include_usage=include_usage)


def test_the_chunks_assemble_to_the_kept_answer():
    transcript = Transcript(keep=True)
    for chunk in told(include_usage=True):
        transcript.take(chunk)
    assert transcript.choices() == KEPT["choices"]


@pytest.mark.parametrize("include_usage", [False, True])
def test_every_chunk_is_one_of_the_same_generation(include_usage: bool):  # noqa: FBT001
    for chunk in told(include_usage=include_usage):
        assert chunk["object"] == "chat.completion.chunk"
        assert (chunk["id"], chunk["created"], chunk["model"]) == ("gen-1", 1, "acme/tide")


def test_only_who_asked_for_usage_has_its_member():
    assert all("usage" not in chunk and chunk["choices"] for chunk in told(include_usage=False))
    assert all(chunk["usage"] is None for chunk in told(include_usage=True))


def test_a_finish_reason_comes_after_the_message():
    reasons = [
        (choice["index"], choice["finish_reason"]) for chunk in told(include_usage=False) for choice in chunk["choices"]
    ]
    assert reasons == [(0, None), (0, "stop"), (1, None), (1, "tool_calls")]


def test_tool_calls_of_a_delta_have_their_index():
    calls = [call for chunk in told(include_usage=False) for call in chunk["choices"][0]["delta"].get("tool_calls", ())]
    assert calls == [{**CALL, "index": 0}]
