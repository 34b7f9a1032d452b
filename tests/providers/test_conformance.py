"""What every provider must do, the sandbox included, whatever shape its answers have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gateway.errors import ProviderError, ProviderRateLimited, ProviderTimeout
from gateway.inference.transcript import Transcript
from gateway.providers import ADAPTERS, base
from tests.providers.subjects import Subject, Told

if TYPE_CHECKING:
    from tests.harness.upstream import Upstream
    from tests.providers.subjects import FaultName, Kind


@pytest.fixture(params=[*ADAPTERS, "sandbox"])
def subject(request: pytest.FixtureRequest, upstream: Upstream) -> Subject:
    return Subject(request.param, upstream)


@pytest.fixture
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "KEEP_ALIVE_S", 0.02)
    monkeypatch.setattr(base, "IDLE_S", 0.15)
    monkeypatch.setattr(base, "TOTAL_S", 0.3)


async def whole(subject: Subject, kind: Kind, fault: FaultName | None = None) -> tuple[dict[str, Any], Transcript]:
    transcript = Transcript(keep=False)
    completion = await subject.provider.complete(subject.asked(kind, fault=fault))
    transcript.take_whole(completion)
    return completion, transcript


async def told(subject: Subject, kind: Kind = "completion", fault: FaultName | None = None) -> Told:
    return await Told().hear(subject.provider, subject.asked(kind, stream=True, fault=fault))


async def test_a_whole_answer_has_a_message_a_reason_and_its_usage(subject: Subject):
    completion, transcript = await whole(subject, "completion")
    (choice,) = completion["choices"]
    assert choice["index"] == 0
    assert choice["finish_reason"] == transcript.finish_reason == "stop"
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"]
    assert transcript.seen_bytes == len(choice["message"]["content"].encode())
    assert transcript.upstream_id == completion["id"]
    assert transcript.usage
    assert transcript.usage.prompt > 0 < transcript.usage.completion


async def test_a_stream_tells_the_same_as_the_whole_answer(subject: Subject):
    heard = await told(subject)
    completion, transcript = await whole(subject, "completion")
    assert heard.text == completion["choices"][0]["message"]["content"]
    assert heard.transcript.usage == transcript.usage
    assert heard.transcript.finish_reason == "stop"
    assert heard.transcript.unfinished() == []


async def test_a_stream_has_the_role_first_and_one_finish_reason(subject: Subject):
    choices = [choice for chunk in (await told(subject)).chunks for choice in chunk["choices"]]
    assert choices[0]["delta"]["role"] == "assistant"
    assert [choice["finish_reason"] for choice in choices if choice["finish_reason"] is not None] == ["stop"]
    assert all(choice["index"] == 0 for choice in choices)


async def test_usage_and_empty_choices_are_not_sent_on(subject: Subject):
    assert all(chunk["choices"] and "usage" not in chunk for chunk in (await told(subject)).chunks)


async def test_a_whole_tool_call(subject: Subject):
    completion, transcript = await whole(subject, "tools")
    (call,) = completion["choices"][0]["message"]["tool_calls"]
    assert call["id"]
    assert call["type"] == "function"
    assert call["function"]["name"] == "next_tide"
    assert set(msgspec.json.decode(call["function"]["arguments"])) == {"port", "hours"}
    assert transcript.finish_reason == "tool_calls"


async def test_a_streamed_tool_call_assembles_to_the_whole_one(subject: Subject):
    heard = await told(subject, "tools")
    fragments = [
        call
        for chunk in heard.chunks
        for choice in chunk["choices"]
        for call in choice["delta"].get("tool_calls") or ()
    ]
    assert [call["index"] for call in fragments] == [0] * len(fragments)
    assert all(call.get("id", "none") for call in fragments)
    completion, transcript = await whole(subject, "tools")
    (assembled,) = heard.transcript.choices()[0]["message"]["tool_calls"]
    (expected,) = completion["choices"][0]["message"]["tool_calls"]
    assert assembled["function"] == expected["function"]
    assert heard.transcript.finish_reason == "tool_calls"
    assert heard.transcript.usage == transcript.usage


async def test_an_answer_without_usage_is_still_one(subject: Subject):
    assert (await whole(subject, "completion", "no-usage"))[1].usage is None
    heard = await told(subject, fault="no-usage")
    assert heard.transcript.usage is None
    assert heard.text


async def test_too_many_requests_ask_the_next_provider(subject: Subject):
    with pytest.raises(ProviderRateLimited) as whole_refused:
        await whole(subject, "completion", "rate-limited")
    with pytest.raises(ProviderRateLimited) as stream_refused:
        await told(subject, fault="rate-limited")
    assert whole_refused.value.retry_after_ms == stream_refused.value.retry_after_ms == 7000


@pytest.mark.parametrize("fault", ["error", "cut", "malformed", "over-long"])
async def test_a_broken_answer_asks_the_next_provider(subject: Subject, fault: FaultName):
    with pytest.raises(ProviderError):
        await whole(subject, "completion", fault)
    heard = Told()
    with pytest.raises(ProviderError):
        await heard.hear(subject.provider, subject.asked(stream=True, fault=fault))
    assert len(heard.chunks) <= 4
    assert heard.transcript.finish_reason is None


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("fault", ["hang", "stall"])
async def test_silence_ends_at_the_deadline(subject: Subject, fault: FaultName):
    with pytest.raises(ProviderTimeout):
        await whole(subject, "completion", fault)
    heard = Told()
    with pytest.raises(ProviderTimeout):
        await heard.hear(subject.provider, subject.asked(stream=True, fault=fault))
    assert bool(heard.silences) is (fault == "stall")
