"""Large bodies: what they may hold, whose are read, and how much of them a process has room for."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest

from chat.calls import UNVERIFIED_BYTES
from gateway.http.parsing import MAX_VALUES, STRING
from gateway.http.room import anonymous, verified
from gateway.keys import mint
from tests.functions.test_errors import error_of
from tests.harness.gateway import HELLO, InProcess
from tests.runtime.waiting import until

if TYPE_CHECKING:
    import httpx

PATH = "/v1/chat/completions"
VALUES = {
    "objects": "{}",
    "lists": "[]",
    "objects in objects": '{"a":{"b":{}}}',
    "numbers": "1,1,1",
    "between texts": r'"\",[{\\", {}',
}


def body(**members: Any) -> bytes:
    return json.dumps({"model": "sandbox/chat", "messages": HELLO, **members}).encode()


def many(value: str, count: int) -> bytes:
    """A valid body with so many values more."""
    return body(x="%").replace(b'"%"', f"[{','.join([value] * count)}]".encode())


async def post(gateway: InProcess, raw: bytes, key: str | None = None, path: str = PATH) -> httpx.Response:
    headers = gateway.headers({"content-type": "application/json"}, key)
    return await gateway.client.post(path, headers=headers, content=raw)


async def half_sent(gateway: InProcess, key: str, path: str) -> bytes:
    """The first line of the answer to a body of which the second half never comes."""
    address = urlsplit(gateway.url)
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    head = f"POST {path} HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {key}\r\n"
    writer.write(f"{head}Content-Length: {2 * UNVERIFIED_BYTES}\r\n\r\n".encode() + b" " * (UNVERIFIED_BYTES + 1))
    first = await asyncio.wait_for(reader.readline(), 20)
    writer.close()
    return first


@pytest.fixture
def made_up() -> str:
    """A key that nobody has, and whose form and checksum are right."""
    return mint("dev").plaintext


@pytest.mark.parametrize("value", VALUES.values(), ids=VALUES)
async def test_more_values_than_a_process_has_memory_for(gateway: InProcess, value: str):
    error = error_of(await post(gateway, many(value, MAX_VALUES)[: 5 << 20]), 400, "invalid_request_error")
    assert "400,000 values" in error["message"]
    assert (await post(gateway, many(value, MAX_VALUES // 4))).status_code == 200
    await until(lambda: (anonymous.left, verified.left) == (anonymous.size, verified.size))


@pytest.mark.parametrize("said", ["{[,", '"', "\\", '\\"'])
async def test_a_text_is_one_value_whatever_is_in_it(gateway: InProcess, said: str):
    message = {"role": "user", "content": said * 500_000 + "{,"}
    assert (await post(gateway, body(messages=[message], user="{,"))).status_code == 200
    await gateway.ended()


@pytest.mark.parametrize("cut", [rb'"\"', rb'"\\', b'"', b'"\\', rb"\""])
def test_a_text_that_is_cut_takes_no_longer(cut: bytes):
    assert len(STRING.sub(b"", cut * 1_000_000)) <= 1_000_000


@pytest.mark.parametrize("path", [PATH, "/v1/embeddings", "/v1/images/generations", "/v1/responses", "/v1/messages"])
async def test_more_than_the_beginning_is_read_only_for_a_valid_key(gateway: InProcess, made_up: str, path: str):
    for _ in range(2):
        assert b" 401 " in await half_sent(gateway, made_up, path)
    assert gateway.line.calls == ["check_key", "record_refusal"]  # of the first: the second is remembered


async def test_the_largest_body_of_a_made_up_key_that_is_read(gateway: InProcess, made_up: str):
    frame = len(body(user=""))
    for size, calls in ((0, ["authorize", "settle"]), (1, ["check_key", "authorize", "settle"])):
        gateway.line.calls.clear()
        assert (await post(gateway, body(user="x" * (UNVERIFIED_BYTES - frame + size)))).status_code == 200
        await gateway.ended(1 + size)
        assert gateway.line.calls == calls
    assert await gateway.rows("select from gateway.rate_limit_buckets where scope like 'management%'") == []
    error_of(await post(gateway, body(user="x" * (UNVERIFIED_BYTES - frame)), made_up), 401, "invalid_api_key")
    assert gateway.line.calls[3:] == ["authorize", "record_refusal"]


async def test_a_key_that_may_not_infer_has_no_large_body_read(gateway: InProcess):
    await gateway.books.execute("update gateway.api_keys set scopes = '{account:read}'")
    error_of(await post(gateway, b" " * (UNVERIFIED_BYTES + 1)), 403, "insufficient_scope")


async def test_what_has_no_room_is_refused(gateway: InProcess, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(anonymous, "left", 50_000)
    monkeypatch.setattr(anonymous, "size", 50_000)
    refused = await post(gateway, body(user="x" * 200_000))
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert (refused.json()["error"]["metadata"]["retryable"], refused.headers["retry-after"]) == (True, "1")
    assert (await post(gateway, body(user="x" * 60_000))).status_code == 200
    assert anonymous.left == 50_000


async def test_what_has_no_room_once_it_is_parsed_is_refused(gateway: InProcess, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(verified, "left", 400_000)
    assert (await post(gateway, body(user="x" * 300_000))).status_code == 503
    assert gateway.line.calls == ["check_key"]
    assert (anonymous.left, verified.left) == (anonymous.size, 400_000)
    assert (await post(gateway, body(user="x" * 70_000))).status_code == 200
    await gateway.ended()


async def test_with_little_room_left_less_is_read_for_a_key_that_is_not_verified(
    gateway: InProcess, made_up: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(anonymous, "left", anonymous.size // 2)
    large = body(user="x" * 100_000)
    error_of(await post(gateway, large, made_up), 401, "invalid_api_key")
    assert (await post(gateway, large)).status_code == 200
    await gateway.ended()
    assert gateway.line.calls == ["check_key", "record_refusal", "check_key", "authorize", "settle"]


async def test_a_managements_body(gateway: InProcess):
    path = "/user/webhooks"
    hook = {"url": "https://example.com/", "events": ["key.created"]}
    padded = json.dumps({**hook, "x": "y" * 100_000}).encode()
    error_of(await post(gateway, padded, path=path), 422, "unprocessable")
    error_of(await post(gateway, padded.ljust((1 << 20) + 1), path=path), 413, "payload_too_large")
    values = b'{"url": [' + b",".join([b"{}"] * 30_000) + b"]}"
    assert "20,000 values" in error_of(await post(gateway, values, path=path), 400, "invalid_request_error")["message"]
