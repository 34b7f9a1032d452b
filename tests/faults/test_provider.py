"""Providers that fail, before their first token and after it: who answers instead, what the client hears, who pays."""

from __future__ import annotations

import json
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from gateway.inference import completions
from gateway.providers import base
from tests.harness.gateway import DONE, GPT, PROVIDER_KEY, InProcess, answer, delta, event, finish, usage
from tests.harness.upstream import Fault, Reply, Upstream, streamed, until_closed, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

CANARY = "words-of-the-provider-that-nobody-may-read"
COST_NANO = 10 * 150 + 5 * 600
"""Of 10 prompt and 5 completion tokens at the seed's prices."""
GOOD = (delta("", role="assistant"), delta("Hello"), finish(), usage(), DONE)
REFUSALS = {
    "closes": ((Fault.CLOSE,), 502, "provider_error"),
    "resets": ((Fault.RESET,), 502, "provider_error"),
    "401": (whole(CANARY.encode(), 401), 502, "provider_error"),
    "402": (whole(CANARY.encode(), 402), 502, "provider_error"),
    "403": (whole(CANARY.encode(), 403), 502, "provider_error"),
    "404": (whole(CANARY.encode(), 404), 502, "provider_error"),
    "408": (whole(CANARY.encode(), 408), 504, "provider_timeout"),
    "429": (whole(CANARY.encode(), 429, retry_after="7"), 429, "provider_rate_limited"),
    "500": (whole(CANARY.encode(), 500), 502, "provider_error"),
    "503": (whole(CANARY.encode(), 503), 502, "provider_error"),
    "504": (whole(CANARY.encode(), 504), 504, "provider_timeout"),
    "529": (whole(CANARY.encode(), 529), 502, "provider_error"),
    "redirects": (whole(b"", 302, location=f"http://127.0.0.1:1/{CANARY}"), 502, "provider_error"),
    "html": (whole(f"<html>{CANARY}</html>".encode(), content_type="text/html"), 502, "provider_error"),
    "error with status 200": (
        whole(json.dumps({"error": {"message": CANARY, "code": 500}}).encode()),
        502,
        "provider_error",
    ),
    "empty": (whole(b""), 502, "provider_error"),
    "an array": (whole(b"[]"), 502, "provider_error"),
    "no choices": (whole(b'{"choices": []}'), 502, "provider_error"),
    "choices of another kind": (whole(b'{"choices": {"a": 1}}'), 502, "provider_error"),
    "a message of another kind": (whole(b'{"choices": [{"message": "text"}]}'), 502, "provider_error"),
    "compressed": (whole(b"\x1f\x8b", content_encoding="gzip"), 502, "provider_error"),
    "cut": (until_closed(content_length="100"), 502, "provider_error"),
    "stalls": ((Fault.STALL,), 504, "provider_timeout"),
}
WHOLE_ONLY = {"an array", "no choices", "choices of another kind", "a message of another kind"}
STREAM_REFUSALS = {name: case for name, case in REFUSALS.items() if name not in WHOLE_ONLY} | {
    "ends at once": (streamed(), 502, "provider_error"),
    "only [DONE]": (streamed(DONE), 502, "provider_error"),
    "only a role": (streamed(delta("", role="assistant"), DONE), 502, "provider_error"),
    "only usage": (streamed(usage(), DONE), 502, "provider_error"),
    "cut before a token": (streamed(delta("", role="assistant"), Fault.CLOSE), 502, "provider_error"),
    "an error event": (streamed(event({"error": {"message": CANARY, "code": 429}})), 429, "provider_rate_limited"),
    "garbage": (streamed(b"data: {" + CANARY.encode() + b"\n\n"), 502, "provider_error"),
    "calls of another kind": (
        streamed(event({"choices": [{"index": 0, "delta": {"tool_calls": [None]}}]})),
        502,
        "provider_error",
    ),
    "function of another kind": (
        streamed(event({"choices": [{"index": 0, "delta": {"tool_calls": [{"index": 0, "function": "f"}]}}]})),
        502,
        "provider_error",
    ),
}
BREAKS: dict[str, tuple[bytes | Fault, ...]] = {
    "cut": (Fault.CLOSE,),
    "reset": (Fault.RESET,),
    "stall": (Fault.STALL,),
    "inside an event": (b'data: {"choices"', Fault.CLOSE),
    "inside a character": ("data: …".encode()[:-1], Fault.CLOSE),
    "without [DONE]": (),
    "garbage": (b"data: {" + CANARY.encode() + b"\n\n", *GOOD),
    "html": (b"<html>" + CANARY.encode() + b"</html>", Fault.CLOSE),
    "an error event": (event({"error": {"message": CANARY, "code": 500}}), DONE),
    "a rate limit": (event({"error": {"message": CANARY, "code": 429}}), DONE),
    "an array": (b"data: []\n\n", DONE),
    "too long": (b"data: " + b"x" * (1 << 20) + b"x\n\n", *GOOD),
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Providers are waited for a moment only."""
    monkeypatch.setattr(base, "IDLE_S", 0.3)
    monkeypatch.setattr(base, "TOTAL_S", 0.6)


@pytest.fixture
async def second(gateway: InProcess) -> AsyncIterator[Upstream]:
    """Another provider of the same model, which answers when the first one does not."""
    async with Upstream().open() as double:
        gateway.connect("portkey", double.url)
        yield double


async def refused(gateway: InProcess, upstream: Upstream, reply: Reply, *, stream: bool) -> dict[str, Any]:
    """The error of a completion that no provider serves: nothing may have been charged, and nothing be told."""
    before = await gateway.balance(), await gateway.usage()
    upstream.will(reply)
    response = await gateway.ask(model=GPT, stream=stream)
    assert CANARY not in response.text + str(response.headers)
    assert PROVIDER_KEY not in response.text
    assert (await gateway.balance(), await gateway.usage(), await gateway.held()) == (*before, 0)
    error: dict[str, Any] = response.json()["error"]
    return error | {"status": response.status_code, "retry": response.headers.get("retry-after")}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_failure_before_the_first_token_is_a_status(gateway: InProcess, upstream: Upstream, *, stream: bool):
    gateway.connect("openrouter", upstream.url)
    seen, expected = {}, {}
    for name, (reply, status, code) in (STREAM_REFUSALS if stream else REFUSALS).items():
        error = await refused(gateway, upstream, reply, stream=stream)
        seen[name], expected[name] = (error["status"], error["code"]), (status, code)
        assert error["metadata"]["retryable"] is True, name
        assert error["retry"] == ("7" if name == "429" else "5" if name == "an error event" else error["retry"])
    assert seen == expected
    assert set(await gateway.holds()) == {"released"}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_another_provider_answers_instead(
    gateway: InProcess, upstream: Upstream, second: Upstream, *, stream: bool
):
    gateway.connect("openrouter", upstream.url)
    second.will(streamed(*GOOD) if stream else whole(answer("Hello")))
    cases = STREAM_REFUSALS if stream else REFUSALS
    for name, (reply, *_) in cases.items():
        upstream.will(reply)
        before = await gateway.balance()
        response = await gateway.ask(model=GPT, stream=stream)
        assert (response.status_code, response.headers.get("x-gateway-provider")) == (200, "portkey"), name
        assert "Hello" in response.text
        assert CANARY not in response.text
        await gateway.ended(1 + list(cases).index(name))
        assert await gateway.balance() == before - COST_NANO, name
    assert {row["provider"] for row in await gateway.usage()} == {"portkey"}
    assert len(second.requests) == len(cases)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_what_is_the_callers_to_mend_is_asked_of_nobody_else(
    gateway: InProcess, upstream: Upstream, second: Upstream, *, stream: bool
):
    gateway.connect("openrouter", upstream.url)
    for status in (400, 409, 413, 422):
        error = await refused(gateway, upstream, whole(CANARY.encode(), status), stream=stream)
        assert (error["status"], error["code"]) == (400, "invalid_request_error")
    error = await refused(gateway, upstream, whole(b'{"code": "context_length_exceeded"}', 400), stream=stream)
    assert (error["status"], error["code"]) == (400, "context_length_exceeded")
    assert second.requests == []


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("failing", [0, 1, 2, 3])
async def test_all_but_one_may_fail(gateway: InProcess, failing: int, *, stream: bool):
    names = ["openrouter", "portkey", "featherless", "chutes"]
    await gateway.books.execute("delete from gateway.offers where model_id = 'sandbox/chat'")
    for place, name in enumerate(names):
        await gateway.books.execute(
            "insert into gateway.offers (model_id, provider, upstream_id, priority, prompt_price, completion_price)"
            " values ('sandbox/chat', $1, $1 || '-name', $2, 150000000, 600000000)",
            name,
            place,
        )
    async with AsyncExitStack() as stack:
        doubles = [await stack.enter_async_context(Upstream().open()) for _ in names]
        for place, (name, double) in enumerate(zip(names, doubles, strict=True)):
            gateway.connect(name, double.url)
            good = streamed(*GOOD) if stream else whole(answer("Hello"))
            double.will(good if place >= failing else whole(b"", 500))
        response = await gateway.ask(stream=stream)
        assert response.headers["x-gateway-provider"] == names[failing]
        assert [len(double.requests) for double in doubles] == [1] * (failing + 1) + [0] * (3 - failing)
        assert doubles[failing].requests[0].json()["model"] == f"{names[failing]}-name"
    assert await gateway.ended() == ["settled"]


@pytest.mark.parametrize("keyed", [False, True], ids=["", "with an Idempotency-Key"])
async def test_a_failure_after_the_first_token_is_an_event(
    gateway: InProcess, upstream: Upstream, second: Upstream, *, keyed: bool
):
    gateway.connect("openrouter", upstream.url)
    for number, (name, pieces) in enumerate(BREAKS.items()):
        before = await gateway.balance()
        await gateway.books.execute("delete from gateway.offer_health")  # or the circuit would open
        upstream.will(streamed(delta("Hello there"), *pieces))
        told = await gateway.stream({"idempotency-key": name} if keyed else None, model=GPT)
        assert (told.status, told.text, told.done) == (200, "Hello there", True), name
        assert told.error is not None, name
        *_, last = told.chunks
        assert {"id", "object", "created", "model", "provider"} <= last.keys()
        assert last["choices"] == [{"index": 0, "delta": {"content": ""}, "finish_reason": "error"}]
        assert CANARY not in told.body.decode()
        assert await gateway.ended(number + 1)
        used = (await gateway.usage())[-1]
        assert (used["outcome"], used["is_estimated"], used["completion_tokens"]) == ("cut", True, 3), name
        assert await gateway.balance() == before - used["cost_nano"] < before
    assert second.requests == []


USAGES = {
    "missing": None,
    "negative": {"prompt_tokens": -1, "completion_tokens": 5},
    "absurd": {"prompt_tokens": 10**18, "completion_tokens": 5},
    "null": {"prompt_tokens": None, "completion_tokens": None},
    "a string": {"prompt_tokens": "10", "completion_tokens": "5"},
    "a float": {"prompt_tokens": 10.5, "completion_tokens": 5},
    "true": {"prompt_tokens": True, "completion_tokens": True},
    "a list": [1, 2],
    "details of another kind": {"prompt_tokens": -1, "prompt_tokens_details": [], "completion_tokens_details": "x"},
}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_usage_that_cannot_be_believed_is_estimated(gateway: InProcess, upstream: Upstream, *, stream: bool):
    gateway.connect("openrouter", upstream.url)
    for number, (name, reported) in enumerate(USAGES.items()):
        before = await gateway.balance()
        told = [event({"choices": [], "usage": reported})] if reported else []
        good = streamed(delta("Hello there"), finish(), *told, DONE)
        upstream.will(good if stream else whole(answer("Hello there", usage=reported)))
        response = await gateway.ask(model=GPT, stream=stream)
        assert response.status_code == 200, name
        await gateway.ended(number + 1)
        used = (await gateway.usage())[-1]
        assert (used["outcome"], used["is_estimated"], used["completion_tokens"]) == ("completed", True, 3), name
        bound = await gateway.books.fetchval("select bound_nano from gateway.credit_holds where id = $1", used["id"])
        assert 0 < used["cost_nano"] <= bound
        assert await gateway.balance() == before - used["cost_nano"]


def choosing(*, spent: bool = False, **choice: Any) -> bytes:
    """A chunk whose one choice is just this, with usage in it if `spent`."""
    used = {"usage": {"prompt_tokens": 10, "completion_tokens": 5}} if spent else {}
    return event({"choices": [choice], **used})


ODD_DELTA = {"content": "Hello", "tool_calls": [{"function": 1}]}
ODD_BUT_WHOLE = {
    "no finish_reason": (delta("Hello"), usage(), DONE),
    "no [DONE]": (delta("Hello"), finish(), usage()),
    "an empty finish_reason": (choosing(index=0, delta={"content": "Hello"}, finish_reason=""), *GOOD[2:]),
    "members of another kind": (choosing(index={}, delta=ODD_DELTA), *GOOD[2:]),
    "no index, no delta": (delta("Hello"), choosing(finish_reason="stop"), usage(), DONE),
    "usage with the end": (delta("Hello"), choosing(spent=True, index=0, delta={}, finish_reason="stop"), DONE),
    "usage twice": (delta("Hello"), finish(), usage(completion_tokens=1), usage(), DONE),
    "two [DONE]": (*GOOD, DONE),
    "more after [DONE]": (*GOOD, delta(CANARY)),
    "comments and CRLF": (b": hello\r\n\r\n", b"event: e\r\n" + delta("Hello").replace(b"\n", b"\r\n"), *GOOD[2:]),
    "a NUL in its id": (
        event({"id": "a\0b", "choices": [{"index": 0, "delta": {"content": "Hello"}, "finish_reason": "st\0op"}]}),
        usage(),
        DONE,
    ),
}


async def test_odd_answers_that_are_whole_are_charged_as_reported(gateway: InProcess, upstream: Upstream):
    gateway.connect("openrouter", upstream.url)
    for number, (name, pieces) in enumerate(ODD_BUT_WHOLE.items()):
        before = await gateway.balance()
        upstream.will(streamed(*pieces))
        told = await gateway.stream(model=GPT, stream_options={"include_usage": True})
        assert (told.error, told.text, told.done) == (None, "Hello", True), name
        ends = [choice["finish_reason"] for choice in told.choices() if choice["finish_reason"] is not None]
        assert len(ends) == 1, name
        assert ends[0], name
        await gateway.ended(number + 1)
        used = (await gateway.usage())[-1]
        assert (used["outcome"], used["is_estimated"]) == ("completed", False), name
        assert before - await gateway.balance() == COST_NANO, name


async def test_another_provider_answers_within_a_stream_whose_status_has_left(
    gateway: InProcess, upstream: Upstream, second: Upstream, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(completions, "STATUS_HELD_S", 0.02)
    gateway.connect("openrouter", upstream.url)
    upstream.will((Fault.STALL,))
    second.will(streamed(*GOOD))
    told = await gateway.stream(model=GPT)
    assert (told.text, told.error, told.done) == ("Hello", None, True)
    assert told.comments[0] == ": keep-alive"
    assert {chunk["provider"] for chunk in told.chunks} == {"portkey"}
    assert "x-gateway-provider" not in told.headers, "nobody knew yet"


@pytest.mark.parametrize(
    ("reported", "charged"),
    [((9_000_000, 9_000_000), ("bound", 2)), ((10, 9_000_000), (10, 2)), ((9_000_000, 2), ("bound", 2))],
)
async def test_usage_above_what_was_sent_and_asked_for_is_the_bound(
    gateway: InProcess,
    upstream: Upstream,
    capsys: pytest.CaptureFixture[str],
    reported: tuple[int, int],
    charged: tuple[int | str, int],
):
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(answer(usage=dict(zip(("prompt_tokens", "completion_tokens"), reported, strict=True)))))
    before = await gateway.balance()
    response = await gateway.ask(model=GPT, max_tokens=1, n=2)
    await gateway.ended()
    (used,) = await gateway.usage()
    prompt = len(response.request.content) if charged[0] == "bound" else charged[0]
    assert (used["prompt_tokens"], used["completion_tokens"], used["is_estimated"]) == (prompt, charged[1], True)
    (hold,) = await gateway.rows("select bound_nano from gateway.credit_holds")
    assert before - await gateway.balance() == used["cost_nano"] <= hold["bound_nano"]
    assert response.json()["usage"]["prompt_tokens"] == prompt
    (line,) = [json.loads(line) for line in capsys.readouterr().out.splitlines() if "usage_not_believed" in line]
    assert (line["UsageNotBelieved"], line["reported"], line["provider"]) == (1, list(reported), "openrouter")


async def test_usage_that_a_document_elsewhere_can_have_is_charged(gateway: InProcess, upstream: Upstream):
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(answer(usage={"prompt_tokens": 700_000, "completion_tokens": 5})))
    document = {"type": "file", "file": {"file_data": "https://example.com/large.pdf"}}
    await gateway.ask(model=GPT, messages=[{"role": "user", "content": [document]}])
    await gateway.ended()
    (used,) = await gateway.usage()
    assert (used["prompt_tokens"], used["is_estimated"]) == (700_000, False)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("reported", [(0, 0), (10, 0), (0, 5)])
async def test_no_usage_beside_a_text_is_an_estimate(
    gateway: InProcess, upstream: Upstream, reported: tuple[int, int], *, stream: bool
):
    gateway.connect("openrouter", upstream.url)
    told = dict(zip(("prompt_tokens", "completion_tokens"), reported, strict=True))
    text = "x" * 400
    upstream.will(streamed(delta(text), finish(), usage(**told), DONE) if stream else whole(answer(text, usage=told)))
    await gateway.ask(model=GPT, stream=stream)
    await gateway.ended()
    (used,) = await gateway.usage()
    assert (used["is_estimated"], used["completion_tokens"]) == (True, 100)
    assert used["prompt_tokens"] > 0


async def test_all_providers_together_have_one_deadline(
    gateway: InProcess, upstream: Upstream, second: Upstream, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(base, "TOTAL_S", 0.2)
    gateway.connect("openrouter", upstream.url)
    for double in (upstream, second):
        double.will((Fault.STALL,))
    for stream in (False, True):
        response = await gateway.ask(model=GPT, stream=stream)
        assert (response.status_code, response.json()["error"]["code"]) == (504, "provider_timeout")
    assert second.requests == []


async def test_chunks_before_the_first_token_are_bounded(
    gateway: InProcess, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(completions, "MOST_EARLY", 3)
    monkeypatch.setattr(completions, "MOST_EARLY_BYTES", 1000)
    gateway.connect("openrouter", upstream.url)
    waits = delta("", role="assistant"), delta("", more="x" * 2000), *[delta("")] * 50
    upstream.will(streamed(*waits, delta("Hello"), finish(), usage(), DONE))
    told = await gateway.stream(model=GPT)
    assert (told.text, told.error) == ("Hello", None)
    assert told.chunks[0]["choices"][0]["delta"]["role"] == "assistant"
    assert len(told.chunks) <= 3 + 2


async def test_a_stream_has_a_size(gateway: InProcess, upstream: Upstream, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base, "MAX_STREAM_BYTES", 100_000)
    gateway.connect("openrouter", upstream.url)
    upstream.will(streamed(*[delta("x" * 1000)] * 200, finish(), usage(), DONE))
    told = await gateway.stream(model=GPT)
    assert told.error is not None
    assert len(told.body) < 200_000
    assert await gateway.ended() == ["settled"]
