"""The sandbox is small: whatever is asked of it, by anybody, takes little memory and time."""

from __future__ import annotations

import asyncio
import os
from contextlib import aclosing
from typing import Any

import pytest

from gateway import settings, telemetry
from gateway.errors import InvalidRequest, ProviderError, ProviderRateLimited
from gateway.providers import sandbox, sandbox_media
from gateway.providers.sandbox import Sandbox
from gateway.traces import trace_of

SCHEMA = {"type": "object", "properties": {f"member-{number}": {"type": "string"} for number in range(1000)}}


def asked(fault: str = "chat", **members: Any) -> dict[str, Any]:
    return {"model": f"sandbox/{fault}", "messages": [{"role": "user", "content": "Hello"}], **members}


@pytest.fixture
def deployed(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stage that is not a developer's, whose faults wait for a moment."""
    monkeypatch.setattr(sandbox, "settings", settings.load({**os.environ, "STAGE": "staging"}))
    monkeypatch.setattr(sandbox, "MOST_WAIT_S", 0.05)
    monkeypatch.setattr(sandbox, "SLOW_S", 0.05)


def of_user(user_id: int) -> None:
    """Have what follows in this context be a request of this user."""
    telemetry.begin(f"req_{user_id}", trace_of(None, None))
    telemetry.identify(user_id, 1)


async def streamed(provider: Sandbox, body: dict[str, Any]) -> list[Any]:
    async with aclosing(provider.stream({**body, "stream": True})) as chunks:
        return [chunk async for chunk in chunks]


@pytest.mark.parametrize(
    "body",
    [
        asked(n=9),
        asked(tools=[{"type": "function", "function": {"name": "f", "parameters": SCHEMA}}]),
        asked(response_format={"type": "json_schema", "json_schema": {"schema": {"const": "x" * 20_000}}}),
    ],
    ids=["choices", "tools", "a schema"],
)
async def test_what_would_make_a_large_answer_is_refused(body: dict[str, Any]):
    with pytest.raises(InvalidRequest, match="The sandbox"):
        await Sandbox().complete(body)
    with pytest.raises(InvalidRequest, match="The sandbox"):
        await streamed(Sandbox(), body)


@pytest.mark.parametrize("said", ["x", "é", "👋"])
async def test_a_long_text_is_answered_by_its_beginning(said: str):
    body = asked(messages=[{"role": "user", "content": said * 1_000_000}], max_tokens=10_000_000)
    (choice,) = (await Sandbox().complete(body))["choices"]
    assert 0 <= sandbox.MAX_ECHO_BYTES - len(choice["message"]["content"].encode()) < 4
    assert choice["finish_reason"] == "length"


async def test_a_long_stream_lets_others_have_a_turn():
    turns, running = 0, True

    async def other() -> None:
        nonlocal turns
        while running:
            turns += 1
            await asyncio.sleep(0)

    beside = asyncio.create_task(other())
    chunks = await streamed(Sandbox(), asked(messages=[{"role": "user", "content": "x" * 20_000}], max_tokens=10_000))
    running = False
    await beside
    assert turns >= len(chunks) // sandbox.TURNS > 100


@pytest.mark.parametrize(("texts", "dimensions"), [(1, 4097), (2048, 129), (65, 4096)])
async def test_more_numbers_than_it_makes_are_refused(texts: int, dimensions: int):
    body = {"model": "sandbox/embedding", "input": ["x"] * texts, "dimensions": dimensions}
    with pytest.raises(InvalidRequest, match="dimensions") as refusal:
        await Sandbox().embed(body)
    assert refusal.value.param == "dimensions"


@pytest.mark.parametrize(("texts", "dimensions"), [(1, 4096), (2048, 128), (64, 4096)])
async def test_as_many_as_it_makes_are_made(texts: int, dimensions: int):
    body = {"model": "sandbox/embedding", "input": ["x"] * texts, "dimensions": dimensions}
    made = await Sandbox().embed(body)
    assert (len(made["data"]), len(made["data"][-1]["embedding"])) == (texts, dimensions)
    assert texts * dimensions <= sandbox_media.MAX_NUMBERS


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("fault", ["hang", "stall"])
async def test_a_fault_that_waits_ends(fault: str):
    with pytest.raises(ProviderError):
        await Sandbox().complete(asked(fault))
    with pytest.raises(ProviderError):
        await streamed(Sandbox(), asked(fault))


@pytest.mark.usefixtures("deployed")
@pytest.mark.parametrize("fault", sandbox.WAITING)
@pytest.mark.parametrize("again", sandbox.WAITING)
async def test_a_user_has_one_that_waits_at_a_time(monkeypatch: pytest.MonkeyPatch, fault: str, again: str):
    monkeypatch.setattr(sandbox, "MOST_WAIT_S", 60.0)
    monkeypatch.setattr(sandbox, "SLOW_S", 60.0)
    provider = Sandbox()
    of_user(1)
    waiting = asyncio.create_task(provider.complete(asked(fault)))
    while not provider._waited_for:  # noqa: ASYNC110 - it has no events
        await asyncio.sleep(0)
    with pytest.raises(ProviderRateLimited):
        await provider.complete(asked(again))
    assert (await provider.complete(asked()))["choices"]
    of_user(2)
    another = asyncio.create_task(provider.complete(asked(again)))
    while len(provider._waited_for) == 1:  # noqa: ASYNC110
        await asyncio.sleep(0)
    waiting.cancel()
    another.cancel()
    await asyncio.wait({waiting, another})
    assert not provider._waited_for


@pytest.mark.usefixtures("deployed")
async def test_the_next_one_may_wait_when_it_has_ended():
    provider = Sandbox()
    of_user(1)
    for _ in range(2):
        assert (await provider.complete(asked("slow")))["choices"]
        assert await streamed(provider, asked("slow"))
