"""A stream put right for its client and remembered for its bill, whatever a provider makes of OpenAI's shape."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.inference.transcript import MAX_INDEX, Transcript

ODD = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 10**6) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
MEMBERS = ("role", "content", "tool_calls", "function", "arguments", "name", "index", "id", "finish_reason", "delta")
SHAPED = st.recursive(
    ODD,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(MEMBERS), inner, max_size=5),
    max_leaves=8,
)
CHOICES = st.lists(st.dictionaries(st.sampled_from(MEMBERS), SHAPED, max_size=6), max_size=3)
ANSWERS = st.fixed_dictionaries(
    {"message": st.dictionaries(st.sampled_from(MEMBERS), SHAPED, max_size=5)},
    optional={"finish_reason": SHAPED, "index": SHAPED},
)


def chunk(*deltas: dict[str, Any], reason: Any = None, **members: Any) -> dict[str, Any]:
    choices = [{"index": index, "delta": delta, "finish_reason": reason} for index, delta in enumerate(deltas)]
    return {"id": "up-1", "choices": choices, **members}


def taken(*chunks: dict[str, Any]) -> Transcript:
    transcript = Transcript(keep=True)
    for one in chunks:
        transcript.take(one)
    return transcript


@given(st.lists(st.fixed_dictionaries({"choices": CHOICES}, optional={"usage": SHAPED, "id": SHAPED}), max_size=4))
def test_no_shape_breaks_a_transcript(chunks: list[dict[str, Any]]):
    transcript = Transcript(keep=True)
    for one in chunks:
        if transcript.take(one):
            assert "usage" not in one
            for choice in one["choices"]:
                assert 0 <= choice["index"] < MAX_INDEX
                assert choice["finish_reason"] is None or choice["finish_reason"]
                assert isinstance(choice["delta"], dict)
    transcript.unfinished()
    assert all(choice["finish_reason"] for choice in transcript.choices())


@given(st.lists(ANSWERS, min_size=1, max_size=3), SHAPED)
def test_no_shape_breaks_a_whole_answer(choices: list[dict[str, Any]], usage: Any):
    completion = {"choices": choices, "usage": usage}
    Transcript(keep=False).take_whole(completion)
    for choice in choices:
        assert isinstance(choice["finish_reason"], str)
        assert choice["message"]["role"] == "assistant"


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5)))
def test_bytes_and_chunks_are_counted(pieces: list[str]):
    transcript = taken(*(chunk({"content": piece}) for piece in pieces))
    assert transcript.seen_bytes == len("".join(pieces).encode())
    assert transcript.seen_chunks == sum(map(bool, pieces))
    assert transcript.begun == any(pieces)


def test_all_that_the_model_wrote_counts():
    delta = {"content": "ü", "reasoning": "ab", "reasoning_content": "c", "refusal": "d"}
    call = {"function": {"name": "ø", "arguments": "{\N{WATER WAVE}}"}}
    assert taken(chunk({**delta, "tool_calls": [call]})).seen_bytes == 2 + 2 + 1 + 1 + 2 + 6


@pytest.mark.parametrize("delta", [{}, {"role": None}, {"role": ""}, {"content": "x"}, None])
def test_only_the_first_delta_is_given_the_role(delta: dict[str, Any] | None):
    first, second = chunk({}), chunk({"content": "y"})
    first["choices"][0]["delta"] = delta
    taken(first, second)
    assert first["choices"][0]["delta"]["role"] == "assistant"
    assert "role" not in second["choices"][0]["delta"]


@pytest.mark.parametrize(("said", "told"), [(None, None), ("", None), ("stop", "stop"), (5, None), ({}, None)])
def test_a_finish_reason_is_null_until_it_is_one(said: Any, told: str | None):
    one = chunk({"content": "x"}, reason=said)
    transcript = taken(one)
    assert one["choices"][0]["finish_reason"] == transcript.finish_reason == told


def test_a_missing_finish_reason_is_null_and_then_stop():
    one: dict[str, Any] = {"choices": [{"delta": {"content": "x"}}]}
    transcript = taken(one)
    assert one["choices"][0] == {"index": 0, "delta": {"role": "assistant", "content": "x"}, "finish_reason": None}
    assert transcript.unfinished() == [0]
    assert transcript.finish_reason == "stop"


def test_a_finish_reason_alone_has_begun_an_answer():
    assert taken(chunk({}, reason="length")).begun
    assert not taken(chunk({}), {"choices": []}).begun


@pytest.mark.parametrize("choices", [[], None, {}, "x", 5])
def test_a_chunk_without_choices_is_not_for_the_client(choices: Any):
    transcript = Transcript(keep=False)
    assert not transcript.take({"choices": choices, "usage": {"prompt_tokens": 3, "completion_tokens": 4}})
    assert transcript.usage
    assert (transcript.usage.prompt, transcript.usage.completion) == (3, 4)


@pytest.mark.parametrize("later", [None, {}, {"prompt_tokens": -1, "completion_tokens": 10**18}, "usage", [1]])
def test_the_last_believable_usage_counts(later: Any):
    one, other = ({"choices": [], "usage": {"prompt_tokens": 1, "completion_tokens": n}} for n in (1, 2))
    transcript = taken(one, other, {"choices": [], "usage": later})
    assert transcript.usage
    assert transcript.usage.completion == 2


def test_a_tool_call_has_an_index_and_no_empty_id():
    one = chunk({"tool_calls": [{"id": "", "function": {"name": "f"}}, {"id": None, "index": -1}, {"index": "0"}]})
    taken(one)
    first, second, third = one["choices"][0]["delta"]["tool_calls"]
    assert (first["index"], second["index"], third["index"]) == (0, 1, 2)
    assert "id" not in first | second | third


@pytest.mark.parametrize("index", [MAX_INDEX, 10**12])
def test_an_index_beyond_reason_is_a_position(index: int):
    """It would be the length of a list."""
    one = chunk({"tool_calls": [{"index": index, "function": {"name": "f"}}]})
    one["choices"][0]["index"] = index
    transcript = taken(one)
    assert one["choices"][0]["index"] == one["choices"][0]["delta"]["tool_calls"][0]["index"] == 0
    assert len(transcript.choices()[0]["message"]["tool_calls"]) == 1


def test_tool_calls_are_assembled_by_their_index():
    ends = [{"index": 0, "function": {"arguments": "{}"}}, {"index": 1, "function": {"arguments": "}"}}]
    transcript = taken(
        chunk({"tool_calls": [{"index": 0, "id": "a", "function": {"name": "f", "arguments": ""}}]}),
        chunk({"tool_calls": [{"index": 1, "id": "b", "function": {"name": "g", "arguments": "{"}}]}),
        chunk({"tool_calls": ends}),
        chunk({}, reason="tool_calls"),
    )
    calls = [
        {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}},
        {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}},
    ]
    message = {"role": "assistant", "content": None, "tool_calls": calls}
    assert transcript.choices() == [{"index": 0, "message": message, "finish_reason": "tool_calls"}]


def test_choices_are_kept_apart():
    transcript = taken(
        chunk({"content": "a"}, {"content": "b"}), chunk({"content": "c"}, {"content": "d"}, reason="stop")
    )
    assert [choice["message"]["content"] for choice in transcript.choices()] == ["ac", "bd"]


def test_nothing_is_kept_that_nobody_asked_to_keep():
    transcript = Transcript(keep=False)
    transcript.take(chunk({"content": "x"}))
    assert transcript.choices() == []


def test_the_providers_id_is_remembered_in_bounds():
    assert taken(chunk({}, id="x" * 1000), chunk({}, id="other")).upstream_id == "x" * 200
