"""What becomes of the ledger when a request is cancelled at whatever it waits for, or its process dies."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from local import seed
from tests.harness.gateway import (
    DONE,
    GPT,
    HELLO,
    InProcess,
    OnLambda,
    answer,
    app,
    delta,
    eventually,
    finish,
    on_lambda,
    provider,
    usage,
)
from tests.harness.upstream import Fault, Upstream, streamed, whole
from tests.runtime.waiting import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Generator
    from pathlib import Path

    from tests.harness.postgres import Database

STREAMED: list[bytes | float] = [
    delta(""),
    0.0,
    delta("One"),
    0.0,
    delta(" two"),
    0.0,
    finish(),
    0.0,
    usage(),
    0.0,
    DONE,
]


class Steps:
    """Counts each time that any task of the loop waits, and cancels one of them there."""

    def __init__(self, cancel_at: int, *, relentless: bool) -> None:
        self.taken, self.cancelled = 0, False
        self.victim: asyncio.Task[None] | None = None
        self._cancel_at, self._relentless = cancel_at, relentless

    def take(self) -> None:
        self.taken += 1
        due = self.taken >= self._cancel_at if self._relentless else self.taken == self._cancel_at
        if due and self.victim is not None and not self.victim.done():
            self.cancelled = True
            self.victim.cancel()

    def task(self, loop: asyncio.AbstractEventLoop, work: Any, **options: Any) -> asyncio.Task[Any]:
        """A task factory."""

        async def counted() -> Any:
            return await _Counted(work, self)

        return asyncio.Task(counted(), loop=loop, **options)


class _Counted:
    def __init__(self, work: Coroutine[Any, Any, Any], steps: Steps) -> None:
        self._work, self._steps = work, steps

    def __await__(self) -> Generator[Any, Any, Any]:
        value, error = None, None
        while True:
            try:
                waiting = self._work.throw(error) if error else self._work.send(value)
            except StopIteration as end:
                return end.value
            self._steps.take()
            try:
                value, error = (yield waiting), None
            except BaseException as thrown:  # noqa: BLE001 - it is the work that it is thrown into
                error = thrown


async def served(gateway: InProcess, steps: Steps, *, stream: bool) -> int | None:
    """Ask the app without a server between; the status, or None when it was cancelled before."""
    body = json.dumps({"model": GPT, "messages": HELLO, "stream": stream, "max_tokens": 3}).encode()
    headers = [(b"authorization", f"Bearer {gateway.key}".encode())]
    scope = {"type": "http", "method": "POST", "path": "/v1/chat/completions", "query_string": b"", "headers": headers}
    messages = [{"type": "http.request", "body": body, "more_body": False}]
    status = None

    async def receive() -> dict[str, Any]:
        if not messages:
            await asyncio.Event().wait()
        return messages.pop()

    async def send(message: Any) -> None:
        nonlocal status
        await asyncio.sleep(0)
        status = message.get("status", status)

    loop = asyncio.get_running_loop()
    loop.set_task_factory(steps.task)
    try:
        steps.victim = loop.create_task(app({**scope, "client": ("127.0.0.1", 1)}, receive, send))
        await asyncio.wait({steps.victim})
    finally:
        loop.set_task_factory(None)
    if steps.cancelled and steps.victim.cancelled():
        return None
    steps.victim.result()
    return status


@pytest.mark.parametrize("relentless", [False, True], ids=["once", "relentless"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_cancelled_at_each_await(gateway: InProcess, upstream: Upstream, *, stream: bool, relentless: bool):
    gateway.connect("openrouter", upstream.url)
    upstream.will(streamed(*STREAMED) if stream else whole(answer()))
    assert await served(gateway, Steps(0, relentless=False), stream=stream) == 200  # connections are open from here
    states: list[str] = []
    for at in range(1, 1000):
        steps = Steps(at, relentless=relentless)
        await served(gateway, steps, stream=stream)
        states = await gateway.holds()
        assert "held" not in states, f"cancelled at step {at} of a request, it left its hold open"
        if not steps.cancelled:
            break
    assert at > 6
    assert set(states) == {"settled", "released"}
    assert len(await gateway.usage()) == states.count("settled")
    assert await gateway.held() == 0


@pytest.fixture
async def function(database: Database, upstream: Upstream, tmp_path: Path) -> AsyncIterator[OnLambda]:
    """The chat function in a process that can be killed; its provider sends a token and then waits."""
    upstream.will(streamed(delta("One"), Fault.STALL))
    async with on_lambda(database, tmp_path, provider("openrouter", upstream.url)) as running:
        yield running


async def asked(gateway: OnLambda) -> bytes:
    """A streamed completion up to its end; nothing if it was cut."""
    try:
        return (await gateway.ask(model=GPT, stream=True)).content
    except httpx.RemoteProtocolError:
        return b""


@asynccontextmanager
async def locked(gateway: OnLambda, table: str) -> AsyncIterator[None]:
    """Nobody can write to a table while the block runs."""
    async with gateway.books.transaction():
        await gateway.books.execute(f"lock table gateway.{table} in exclusive mode")
        yield


async def calls(gateway: OnLambda, name: str) -> list[int]:
    """The server processes that run a function of the API."""
    await gateway.books.execute("select pg_stat_clear_snapshot()")
    query = "select pid from pg_stat_activity where datname = current_database() and state = 'active' and query like $1"
    return [row["pid"] for row in await gateway.rows(query, f"select api.{name}(%")]


async def idle(gateway: OnLambda, name: str) -> bool:
    """Whether no server process runs a function of the API."""
    return not await calls(gateway, name)


async def lost(gateway: OnLambda) -> bool:
    """Whether a request left nothing in the books, once its time is over and the job has swept."""
    await gateway.sweep()
    whole = "held" not in await gateway.holds() and await gateway.held() == 0
    return whole and await gateway.usage() == [] and await gateway.balance() == seed.START_CREDIT_NANO


async def test_killed_before_the_hold(function: OnLambda):
    async with locked(function, "credit_holds"):
        asking = asyncio.create_task(asked(function))
        await eventually(lambda: calls(function, "authorize"))
        function.kill()
        await asking
    # it commits, and nobody is there to hear of it
    await eventually(lambda: idle(function, "authorize"))
    assert await lost(function)


async def test_killed_after_the_hold(function: OnLambda, upstream: Upstream):
    upstream.will((Fault.STALL,))
    asking = asyncio.create_task(asked(function))
    await until(lambda: upstream.requests)
    assert await function.holds() == ["held"]
    function.kill()
    assert b"data:" not in await asking
    assert await lost(function)


async def test_killed_in_the_middle_of_a_stream(function: OnLambda):
    async with function.reading(model=GPT) as chunks:
        assert b"One" in await anext(chunks)
        function.kill()
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(chunks)
    assert await function.holds() == ["held"]
    assert await lost(function)


async def test_killed_before_its_settlement_is_booked(function: OnLambda, upstream: Upstream):
    upstream.will(streamed(delta("One"), finish(), usage(), DONE))
    async with locked(function, "usage_records"):
        assert b"[DONE]" in await asked(function)
        (settling,) = await eventually(lambda: calls(function, "settle"))
        function.kill()
        await function.books.execute("select pg_terminate_backend($1)", settling)
    assert await function.holds() == ["held"]
    assert await lost(function)


async def test_killed_while_its_settlement_is_booked(function: OnLambda, upstream: Upstream):
    upstream.will(streamed(delta("One"), finish(), usage(), DONE))
    async with locked(function, "usage_records"):
        assert b"[DONE]" in await asked(function)
        await eventually(lambda: calls(function, "settle"))
        function.kill()
    assert await function.ended() == ["settled"]
    await function.sweep()
    (used,) = await function.usage()
    assert await function.balance() == seed.START_CREDIT_NANO - used["cost_nano"] < seed.START_CREDIT_NANO


async def test_a_client_that_leaves_lambda_pays_for_the_whole_answer(function: OnLambda, upstream: Upstream):
    upstream.will(streamed(delta("One"), 0.2, delta(" two"), finish(), usage(), DONE))
    async with function.reading(model=GPT) as chunks:
        assert b"One" in await anext(chunks)
    assert await function.ended() == ["settled"]
    (used,) = await function.usage()
    assert (used["outcome"], used["completion_tokens"], used["is_estimated"]) == ("completed", 5, False)
