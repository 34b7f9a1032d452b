"""What gateway.http.streaming promises, on a real Runtime API and behind a real API Gateway front."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from local.invocation import FunctionError
from tests.runtime.waiting import until

if TYPE_CHECKING:
    from local.aws_lambda import LocalLambda

pytestmark = pytest.mark.asyncio(loop_scope="module")
EVENTS = "data: 0\n\ndata: 1\n\ndata: 2\n\n"


async def test_each_chunk_leaves_at_once(client: httpx.AsyncClient, gate: Path):
    async with client.stream("GET", "/stream/events", params={"wait": "2", "gate": str(gate)}) as response:
        chunks = response.aiter_text()
        seen = ""
        while seen != "data: 0\n\ndata: 1\n\n":
            seen += await anext(chunks)
        gate.touch()
        seen += "".join([chunk async for chunk in chunks])
    assert seen == EVENTS
    assert response.headers["content-type"] == "text/event-stream; charset=utf-8"


async def test_headers_leave_before_a_slow_first_chunk(client: httpx.AsyncClient, gate: Path):
    async with client.stream("GET", "/stream/events", params={"wait": "0", "gate": str(gate)}) as response:
        assert response.status_code == 200
        gate.touch()
        assert await response.aread() == EVENTS.encode()


async def test_a_large_stream_arrives_whole(client: httpx.AsyncClient):
    response = await client.get("/stream/big")
    assert response.content == b"x" * 65_536 * 128


@pytest.mark.parametrize("body", [b"", b"text", bytes(range(256))])
async def test_a_request_body_arrives_whole(client: httpx.AsyncClient, body: bytes):
    response = await client.post("/stream/echo", content=body)
    assert response.content == (body or b"\n")


async def test_cookies_are_lines_and_other_headers_lists(client: httpx.AsyncClient):
    response = await client.get("/stream/cookies")
    assert [line.partition(";")[0] for line in response.headers.get_list("set-cookie")] == ["a=1", "b=2"]
    assert response.headers["vary"] == "origin, accept"


@pytest.mark.parametrize(("status", "body"), [(200, b"\n"), (201, b"\n"), (404, b"\n"), (204, b""), (304, b"")])
async def test_a_response_without_a_body_gets_one_byte_unless_it_may_not(
    client: httpx.AsyncClient, status: int, body: bytes
):
    response = await client.get("/stream/empty", params={"status": status})
    assert (response.status_code, response.content) == (status, body)


async def test_a_redirect_is_not_followed_by_the_gateway(client: httpx.AsyncClient):
    response = await client.get("/stream/redirect")
    assert (response.status_code, response.headers["location"]) == (302, "/elsewhere")


async def test_the_client_has_the_answer_before_the_work_after_it(
    aws: LocalLambda, client: httpx.AsyncClient, gate: Path, done: Path
):
    response = await client.get("/stream/background", params={"gate": str(gate), "done": str(done)})
    assert response.text == "answered"
    busy = [e for e in aws.pools["StreamFunction"].environments if e.finishing]
    assert len(busy) == 1, "it asks for no more work"
    assert not done.exists()
    gate.touch()
    await until(lambda: done.exists() and busy[0].idle)


async def test_work_after_the_answer_may_fail(client: httpx.AsyncClient):
    for _ in range(2):
        response = await client.get("/stream/broken_background")
        assert (response.status_code, response.text) == (200, "answered")


async def test_a_client_that_leaves_is_invisible(aws: LocalLambda, client: httpx.AsyncClient, gate: Path, done: Path):
    async with client.stream("GET", "/stream/events", params={"wait": "1", "gate": str(gate)}) as response:
        assert await anext(response.aiter_text()) == "data: 0\n\n"
    busy = [e for e in aws.pools["StreamFunction"].environments if e.api.running]
    assert len(busy) == 1
    gate.touch()
    await until(lambda: busy[0].idle)
    response = await client.get("/stream/disconnected", params={"done": str(done)})
    assert response.text == "firstFalse"
    await until(lambda: done.exists() and done.read_text() == "http.disconnect")


async def test_the_app_is_cancelled_before_its_deadline_and_clears_up(client: httpx.AsyncClient, done: Path):
    before = (await client.get("/short/scope")).json()
    async with client.stream("GET", "/short/endless", params={"done": str(done)}) as response:
        assert response.status_code == 200
        chunks = response.aiter_text()
        assert await anext(chunks) == "first"
        with pytest.raises(httpx.RemoteProtocolError):
            await anext(chunks)
    assert done.exists()
    after = (await client.get("/short/scope")).json()
    assert after["pid"] == before["pid"], "the environment survives"


async def test_an_app_that_cannot_be_cancelled_is_killed(client: httpx.AsyncClient):
    before = (await client.get("/short/scope")).json()
    assert (await client.get("/short/stubborn")).status_code == 502
    after = (await client.get("/short/scope")).json()
    assert after["pid"] != before["pid"]


@pytest.mark.parametrize("text", ["x", "\0", '"', "\N{GRINNING FACE}"])
async def test_an_error_in_mid_stream_cuts_it_and_spares_the_environment(client: httpx.AsyncClient, text: str):
    before = (await client.get("/stream/scope")).json()
    async with client.stream("GET", "/stream/mid_stream", params={"text": text}) as response:
        assert response.status_code == 200
        with pytest.raises(httpx.RemoteProtocolError):
            await response.aread()
    after = (await client.get("/stream/scope")).json()
    assert after["pid"] == before["pid"]


@pytest.mark.parametrize("fault", ["silent", "raises", "unstarted", "cancelled"])
async def test_an_error_before_the_first_byte_is_a_502(client: httpx.AsyncClient, fault: str):
    response = await client.get(f"/raw/{fault}")
    assert response.status_code == 502
    assert response.json() == {"error": {"message": "Internal server error", "code": "internal_error"}}
    assert response.headers["retry-after"] == "1"
    assert (await client.get("/raw/fine")).text == "chunk", "an app without a lifespan is served"


@pytest.mark.parametrize("fault", ["unfinished", "twice"])
async def test_a_response_that_is_not_ended_is_cut(client: httpx.AsyncClient, fault: str):
    async with client.stream("GET", f"/raw/{fault}") as response:
        with pytest.raises(httpx.RemoteProtocolError):
            await response.aread()
    assert (await client.get("/raw/fine")).text == "chunk"


async def test_a_failed_init_is_reported(aws: LocalLambda, client: httpx.AsyncClient):
    assert (await client.get("/broken/events")).status_code == 502
    response = await client.post("/2015-03-31/functions/BrokenFunction/invocations", json={})
    assert response.headers["x-amz-function-error"] == "Unhandled"
    assert response.json() == {"errorType": "RuntimeError", "errorMessage": "init went wrong"}
    assert not aws.pools["BrokenFunction"].environments


async def test_an_event_that_is_not_http_is_refused_by_name(client: httpx.AsyncClient):
    response = await client.post("/2015-03-31/functions/StreamFunction/invocations", json={"job": "sweep"})
    assert response.json()["errorType"] == "NotAnHttpEvent"


async def test_snapstart_hooks_run_around_the_snapshot(client: httpx.AsyncClient):
    response = (await client.get("/snap/scope")).json()
    assert response["history"] == ["startup", "before snapshot", "after restore"]


async def test_a_failed_restore_is_reported(aws: LocalLambda):
    with pytest.raises(FunctionError, match="ValueError"):
        await aws.invoke("UnrestoredFunction", {})


async def test_one_process_and_loop_serve_one_request_after_the_other(client: httpx.AsyncClient):
    seen = [(await client.get("/snap/scope")).json() for _ in range(5)]
    assert len({(response["pid"], response["loop"]) for response in seen}) == 1
    assert seen[-1]["history"].count("startup") == 1


async def test_the_scope_has_what_aws_knows(client: httpx.AsyncClient):
    response = await client.get(
        "/stream/scope/openai%2Fgpt%252F?a=1&a=2&b=%20x",
        headers=[("Authorization", "Bearer a"), ("Authorization", "Bearer b"), ("Host", "a:b:c")],
    )
    seen = response.json()
    assert seen["path"] == "/stream/scope/openai/gpt%2F"
    assert seen["raw_path"] == "/stream/scope/openai%2Fgpt%252F"
    assert seen["query"] == [["a", "1"], ["a", "2"], ["b", " x"]]
    assert seen["server"] == ["localhost", 443]
    assert seen["client"] == ["127.0.0.1", 0]
    assert seen["spec_version"] == "2.4"
    assert seen["resource"] == "/stream/{rest+}"
    assert seen["function"] == "StreamFunction"
    assert 0 < seen["remaining_ms"] <= 20_000
    assert seen["state"] == "yes"
    lines = [value for name, value in seen["headers"] if name == "authorization"]
    assert lines == ["Bearer a", "Bearer b"]
    assert [value for name, value in seen["headers"] if name == "host"] == ["localhost"]


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
async def test_64_streams_run_at_once_in_one_small_process(aws: LocalLambda, gate: Path):
    limits = httpx.Limits(max_connections=None)
    begun = asyncio.Semaphore(0)

    async def stream(client: httpx.AsyncClient) -> str:
        async with client.stream("GET", "/many/events", params={"wait": "1", "gate": str(gate)}) as response:
            chunks = response.aiter_text()
            first = await anext(chunks)
            begun.release()
            return first + "".join([chunk async for chunk in chunks])

    async with (
        httpx.AsyncClient(base_url=aws.address, timeout=30, limits=limits, trust_env=False) as many,
        asyncio.TaskGroup() as group,
    ):
        streams = [group.create_task(stream(many)) for _ in range(64)]
        for _ in streams:
            await begun.acquire()
        environments = aws.pools["ManyFunction"].environments
        memory_mb = [proportional_memory_mb(e.process.pid) for e in environments if e.process]
        gate.touch()
    assert {task.result() for task in streams} == {EVENTS}
    assert len(memory_mb) == 1
    assert memory_mb[0] < 80


def proportional_memory_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1024
