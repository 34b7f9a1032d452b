"""What is kept of an answer and cannot be: the charge is booked all the same, and nobody waits for the rest."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway import settlements
from gateway.inference import answer as answers
from gateway.inference.responses import Responses
from tests.functions.test_errors import error_of
from tests.harness.gateway import DONE, GPT, HELLO, answer, delta, finish, usage
from tests.harness.upstream import streamed, whole
from tests.runtime.waiting import until

if TYPE_CHECKING:
    import httpx

    from tests.harness.gateway import InProcess
    from tests.harness.upstream import Upstream

COST_NANO = 10 * 150 + 5 * 600
NUL = "One\0two"
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


async def respond(gateway: InProcess, *, stream: bool, **headers: str) -> httpx.Response:
    """A response that is stored, of which everything has come."""
    body = {"model": GPT, "input": "Hello", "stream": stream}
    told = await gateway.client.post("/v1/responses", headers=gateway.headers(headers), json=body)
    assert told.status_code == 200
    assert "response.failed" not in told.text
    return told


async def charged_once(gateway: InProcess, before: int) -> None:
    assert await gateway.ended() == ["settled"]
    assert await gateway.balance() == before - COST_NANO
    (used,) = await gateway.usage()
    assert (used["outcome"], used["is_estimated"]) == ("completed", False)


def will_say(upstream: Upstream, text: str, *, stream: bool) -> None:
    good = delta(text), finish(), usage(), DONE
    upstream.will(streamed(*good) if stream else whole(answer(text)))


@STREAM
async def test_a_stored_response_is_charged(gateway: InProcess, upstream: Upstream, *, stream: bool):
    gateway.connect("openrouter", upstream.url)
    will_say(upstream, "Hello", stream=stream)
    before = await gateway.balance()
    await respond(gateway, stream=stream)
    await charged_once(gateway, before)
    (kept,) = await gateway.rows("select response from gateway.responses")
    assert json.loads(kept["response"])["usage"]["cost"] == COST_NANO / 10**9


@STREAM
async def test_what_postgres_cannot_hold_is_left_out_of_what_is_kept(
    gateway: InProcess, upstream: Upstream, *, stream: bool
):
    gateway.connect("openrouter", upstream.url)
    will_say(upstream, NUL, stream=stream)
    before = await gateway.balance()
    told = await respond(gateway, stream=stream)
    assert "One\\u0000two" in told.text
    await charged_once(gateway, before)
    (kept,) = await gateway.rows("select response #>> '{output,0,content,0,text}' as text from gateway.responses")
    assert kept["text"] == "Onetwo"


@STREAM
async def test_a_turn_with_a_nul_is_kept_without_it(gateway: InProcess, upstream: Upstream, *, stream: bool):
    gateway.connect("openrouter", upstream.url)
    will_say(upstream, NUL, stream=stream)
    made = await gateway.client.post("/chat/sessions", headers=gateway.headers(), json={"title": "T", "model": GPT})
    session, before = made.json()["session_id"], await gateway.balance()
    path = f"/v1/chat/completions?session_id={session}"
    body = {"model": GPT, "messages": HELLO, "stream": stream}
    assert (await gateway.client.post(path, headers=gateway.headers(), json=body)).status_code == 200
    await charged_once(gateway, before)
    kept = await gateway.rows("select content #>> '{}' as text from gateway.chat_messages order by id")
    assert [message["text"] for message in kept] == ["Hello", "Onetwo"]


@STREAM
@pytest.mark.parametrize("kept", [{1, 2}, {"deep": object()}, "\ud800"], ids=["a set", "an object", "a surrogate"])
async def test_what_cannot_be_encoded_costs_the_same(
    gateway: InProcess, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, kept: Any, *, stream: bool
):
    gateway.connect("openrouter", upstream.url)
    will_say(upstream, "Hello", stream=stream)
    monkeypatch.setattr(Responses, "memory", lambda _: {"response": {"input": [], "response": {"odd": kept}}})
    before = await gateway.balance()
    await respond(gateway, stream=stream)
    await charged_once(gateway, before)


@STREAM
async def test_what_the_database_refuses_to_keep_costs_the_same_at_once(
    gateway: InProcess, upstream: Upstream, *, stream: bool
):
    gateway.connect("openrouter", upstream.url)
    will_say(upstream, "Hello", stream=stream)
    await gateway.books.execute("alter table gateway.responses add check (response is null)")
    before = await gateway.balance()
    await respond(gateway, stream=stream)
    await charged_once(gateway, before)
    assert gateway.line.calls.count("settle") == 2


@STREAM
async def test_the_last_byte_does_not_wait_for_a_database_that_is_away(
    gateway: InProcess, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, *, stream: bool
):
    monkeypatch.setattr(settlements, "RETRY_S", (0.01,))
    monkeypatch.setattr(answers, "REMEMBER_S", 0.05)
    gateway.connect("openrouter", upstream.url)
    will_say(upstream, "Hello", stream=stream)
    before = await gateway.balance()
    gateway.line.cut = {"settle"}
    await respond(gateway, stream=stream)
    await until(lambda: gateway.line.calls.count("settle") > 3)
    assert await gateway.holds() == ["held"]
    gateway.line.cut.clear()
    await charged_once(gateway, before)
    assert len(await gateway.rows("select from gateway.responses")) == 1


@STREAM
async def test_an_unforeseen_failure_loses_no_charge(
    gateway: InProcess, upstream: Upstream, monkeypatch: pytest.MonkeyPatch, *, stream: bool
):
    monkeypatch.setattr(settlements, "RETRY_S", (0.01,))
    gateway.connect("openrouter", upstream.url)
    will_say(upstream, "Hello", stream=stream)
    before = await gateway.balance()
    gateway.line.broken = {"settle"}
    await respond(gateway, stream=stream)
    await until(lambda: gateway.line.calls.count("settle") > 5)
    gateway.line.broken.clear()
    await charged_once(gateway, before)


@STREAM
async def test_an_answer_too_large_to_keep_is_not_served_twice(gateway: InProcess, upstream: Upstream, *, stream: bool):
    gateway.connect("openrouter", upstream.url)
    text = "x" * settlements.MAX_ANSWER_BYTES
    pieces = [delta(text[at : at + 500_000]) for at in range(0, len(text), 500_000)]
    upstream.will(streamed(*pieces, finish(), usage(), DONE) if stream else whole(answer(text)))
    before, headers = await gateway.balance(), {"idempotency-key": "k"}
    assert (await gateway.ask(headers, model=GPT, stream=stream)).status_code == 200
    await charged_once(gateway, before)
    error = error_of(await gateway.ask(headers, model=GPT, stream=stream), 409, "conflict")
    assert error["param"] == "Idempotency-Key"
    assert await gateway.rows("select from gateway.idempotency_keys where length(answer) > 0") == []
    assert len(upstream.requests) == 1
