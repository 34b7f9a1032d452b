"""What a completion does between its caller and its provider: two database calls, one of them before the first byte."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.architecture.functions import run_python
from tests.harness.gateway import DONE, GPT, answer, delta, finish, usage
from tests.harness.upstream import Fault, Upstream, streamed, whole

if TYPE_CHECKING:
    from tests.harness.gateway import InProcess

SHARED = Path(__file__).parents[2] / "shared/gateway"
GOOD = (delta("Hello"), finish(), usage(), DONE)
HTTP_CLIENTS = {"httpx", "httpcore", "requests", "urllib3", "pycurl", "botocore", "boto3", "openai"}


@pytest.mark.parametrize("keyed", [False, True], ids=["", "with an Idempotency-Key"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_two_database_calls(gateway: InProcess, upstream: Upstream, *, stream: bool, keyed: bool):
    gateway.connect("openrouter", upstream.url)
    upstream.will(streamed(*GOOD) if stream else whole(answer()))
    headers = {"idempotency-key": "k", "x-max-cost-usd": "1"} if keyed else None
    response = await gateway.ask(headers, model=GPT, stream=stream, models=["sandbox/chat"], provider="openrouter")
    assert response.status_code == 200
    await gateway.ended()
    assert gateway.line.calls == ["authorize", "settle"]


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_failing_provider_costs_no_further_call(gateway: InProcess, upstream: Upstream, *, stream: bool):
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(b"", 500))
    await gateway.ask(model=GPT, models=["sandbox/chat"], stream=stream)
    await gateway.ended()
    assert gateway.line.calls == ["authorize", "settle"]
    await gateway.ask(model=GPT, stream=stream)
    await gateway.ended(2)
    assert gateway.line.calls[2:] == ["authorize", "release"]


async def test_one_database_call_before_the_first_byte(gateway: InProcess, upstream: Upstream):
    gateway.connect("openrouter", upstream.url)
    upstream.will(streamed(delta("Hello"), Fault.STALL))
    async with gateway.reading(model=GPT) as chunks:
        assert b"Hello" in await anext(chunks)
        assert gateway.line.calls == ["authorize"]
    await gateway.ended()
    assert gateway.line.calls == ["authorize", "settle"]


async def test_a_refusal_and_a_replay_cost_one_call(gateway: InProcess):
    assert (await gateway.ask(model="nobody/nothing")).status_code == 404
    assert gateway.line.calls == ["authorize"]
    await gateway.ask({"idempotency-key": "k"})
    await gateway.ended()
    gateway.line.calls.clear()
    assert "x-idempotent-replay" in (await gateway.ask({"idempotency-key": "k"})).headers
    assert gateway.line.calls == ["authorize"]


@pytest.mark.process
def test_one_http_client() -> None:
    """aiohttp; the standard library's client stays for one signed call to AWS."""
    code = "import sys, chat.handler; from gateway import database; print(*sys.modules)"
    loaded = set(run_python(code).split())
    assert "aiohttp" in loaded
    assert not loaded & HTTP_CLIENTS


def test_providers_are_reached_through_one_door() -> None:
    doors = {
        path.relative_to(SHARED).as_posix()
        for path in SHARED.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute | ast.Name) and ast.unparse(node).startswith(("aiohttp.", "http.client."))
    }
    assert doors == {"outbound.py", "aws.py"}
