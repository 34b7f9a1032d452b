"""Bodies and headers that must not be believed: a clear 4xx without a word of the input, and nothing is touched."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway.http.edge import MAX_BODY_BYTES
from gateway.inference.requests import REFUSED
from tests.functions.test_errors import error_of
from tests.harness.gateway import HELLO, InProcess

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

CANARY = "kanari-9f2c"
PATH = "/v1/chat/completions"
VALID = {"model": "sandbox/chat", "messages": HELLO}


def body(**members: Any) -> bytes:
    return json.dumps({**VALID, **members}).encode()


def text(members: str) -> bytes:
    """A valid body with further members, as they are spelled here."""
    return body()[:-1] + b", " + members.encode("utf-8", "surrogatepass") + b"}"


def saying(message: Any) -> bytes:
    return body(messages=[message])


MALFORMED = {
    "empty": b"",
    "not JSON": CANARY.encode(),
    "cut": body()[:-1],
    "two values": body() + body(),
    "an array": b"[]",
    "a string": f'"{CANARY}"'.encode(),
    "null": b"null",
    "Latin-1": text(f'"user": "{CANARY}é"').decode().encode("latin-1"),
    "UTF-16": body().decode().encode("utf-16"),
    "a byte order mark": b"\xef\xbb\xbf" + body(),
    "NaN": text('"temperature": NaN'),
    "Infinity": text('"temperature": Infinity'),
    "-Infinity": text('"x": [-Infinity]'),
    "a lone surrogate": text(rf'"user": "{CANARY}\ud800"'),
    "a lone surrogate in UTF-8": text(f'"user": "{CANARY}\ud800"'),
    "NUL": text(rf'"user": "{CANARY}\u0000"'),
    "NUL in a name": text(rf'"{CANARY}\u0000": 1'),
    "a control character": text(f'"user": "{CANARY}\x01"'),
    "a name twice": text(f'"model": "{CANARY}"'),
    "a name twice, deep": text('"x": {"a": 1, "a": 2}'),
    "5000 digits": text(f'"seed": {"9" * 5000}'),
    "100,000 brackets": b'{"model": ' + b"[" * 100_000,
    "a comment": text(f'"a": 1 /* {CANARY} */'),
}
TOKENS = (0, -1, True, "5", CANARY, 1.5, 2**63, 10**7 + 1, [1], {"a": 1})
BAD_VALUES: dict[str, tuple[Any, ...]] = {
    "model": (None, "", 5, "x" * 257, [CANARY]),
    "messages": (None, [], CANARY, {"role": "user"}, [None], [CANARY], HELLO * 2049),
    "models": (CANARY, [5], [""], ["x"] * 9, [CANARY * 50]),
    "provider": (5, "", {"order": CANARY}, {"only": [5]}, {CANARY: 1}, {"max_price": CANARY}, {"allow_fallbacks": 1}),
    "max_tokens": TOKENS,
    "max_completion_tokens": TOKENS,
    "n": (0, -1, 129, True, "2", 1.5),
    "stream": ("true", 1, CANARY),
    "stream_options": (CANARY, [], {"include_usage": "yes"}),
    "temperature": (-0.1, 2.1, "1", CANARY, True, 1e308),
    "top_p": (-0.1, 1.1, "1"),
    "presence_penalty": (-2.1, 2.1, "0"),
    "frequency_penalty": (-2.1, 2.1, "0"),
    "stop": (5, [5], {"a": CANARY}),
    "tools": (CANARY, {"a": 1}, [CANARY], [{}] * 513),
    "tool_choice": (5, [CANARY]),
    "response_format": (CANARY, 5),
    "logprobs": (CANARY, 1),
    "top_logprobs": (-1, 21, "1"),
    "seed": ("1", 1.5, CANARY),
    "user": (5, {"a": CANARY}),
}
BAD_MESSAGES: tuple[Any, ...] = (
    {},
    {"role": CANARY, "content": "x"},
    {"role": None, "content": "x"},
    {"role": "user", "content": 5},
    {"role": "user", "content": [CANARY]},
    {"role": "user", "content": {"text": CANARY}},
    {"content": CANARY},
)
BAD_PRICES = ({"prompt": -1}, {"prompt": CANARY}, {"completion": "1e400"}, {"prompt": [CANARY]}, {"prompt": "NaN"})
BAD_HEADERS = {
    "x-max-cost-usd": ("", "-1", "NaN", "Infinity", CANARY, "1e400", "0.0000000001", "1,5", "0x10", "99999999999"),
    "content-encoding": ("gzip", "br", CANARY),
}


def bad_bodies() -> dict[str, tuple[bytes, str | None]]:
    """By name, a body and the field that its refusal names; None where it does not matter."""
    bodies: dict[str, tuple[bytes, str | None]] = {name: (raw, None) for name, raw in MALFORMED.items()}
    for name, values in BAD_VALUES.items():
        bodies |= {f"{name} #{number}": (body(**{name: value}), name) for number, value in enumerate(values)}
    bodies |= {f"message #{number}": (saying(message), "messages") for number, message in enumerate(BAD_MESSAGES)}
    bodies |= {f"price #{n}": (body(provider={"max_price": price}), "provider") for n, price in enumerate(BAD_PRICES)}
    bodies |= {name: (body(**{name: CANARY}), name) for name in REFUSED}
    bodies |= {f"without {name}": (json.dumps({"x": CANARY, **rest}).encode(), name) for name, rest in WITHOUT.items()}
    return bodies


WITHOUT: dict[str, dict[str, Any]] = {"model": {"messages": HELLO}, "messages": {"model": "sandbox/chat"}}


async def post(gateway: InProcess, raw: bytes, headers: Mapping[str, str] | None = None) -> httpx.Response:
    own = {"content-type": "application/json", **(headers or {})}
    return await gateway.client.post(PATH, headers=gateway.headers(own), content=raw)


async def test_bad_bodies(gateway: InProcess):
    before = await gateway.tables()
    wrong: dict[str, Any] = {}
    for name, (raw, field) in bad_bodies().items():
        response = await post(gateway, raw)
        if response.status_code != 400 or CANARY in response.text + str(response.headers):
            wrong[name] = response.text
            continue
        error = error_of(response, 400, "invalid_request_error")
        if field is not None and not (error["param"] or "").startswith(field):
            wrong[name] = error
    assert not wrong
    assert gateway.line.calls == []
    assert await gateway.tables() == before


@pytest.mark.parametrize("header", BAD_HEADERS)
async def test_bad_headers(gateway: InProcess, header: str):
    before = await gateway.tables()
    for value in BAD_HEADERS[header]:
        response = await post(gateway, body(), {header: value})
        error = error_of(response, 400, "invalid_request_error")
        assert error["param"].lower() == header
        assert CANARY not in response.text
    assert gateway.line.calls == []
    assert await gateway.tables() == before


async def test_a_compressed_body(gateway: InProcess):
    before = await gateway.tables()
    for headers in ({"content-encoding": "gzip"}, {}):
        error_of(await post(gateway, gzip.compress(body(), mtime=0), headers), 400, "invalid_request_error")
    assert await gateway.tables() == before


async def test_a_body_that_is_too_large(gateway: InProcess):
    before = await gateway.tables()
    frame = len(body(user=""))
    for size in (MAX_BODY_BYTES + 1, 4 * MAX_BODY_BYTES):
        response = await post(gateway, body(user=CANARY + "x" * (size - frame - len(CANARY))))
        error_of(response, 413, "payload_too_large")
    assert await gateway.tables() == before
    largest = body(user="x" * (MAX_BODY_BYTES - frame))
    assert len(largest) == MAX_BODY_BYTES
    assert (await post(gateway, largest)).status_code == 200
    await gateway.ended()


async def test_a_large_body_without_a_length(gateway: InProcess):
    async def chunks() -> Any:
        for _ in range(6):
            yield b" " * (1 << 20)

    response = await gateway.client.post(PATH, headers=gateway.headers(), content=chunks())
    error_of(response, 413, "payload_too_large")
    assert gateway.line.calls == ["check_key"]


STRANGE = (
    "' OR '1'='1", "'; drop table gateway.users; --", "' OR (SELECT pg_sleep(10)) IS NULL --", "${jndi:ldap://x/a}",
    "{{7*7}}", "%%%%", "%00", "../../etc/passwd", "line\r\nX-Injected: 1", "\u202eright to left", "e\u0301 é", "👨‍👩‍👧",
    "\ufeff", "\u2028", "x" * (1 << 20), "", " ", "\t",
)  # fmt: skip
"""Strings that are only strings."""


async def test_strings_are_only_strings(gateway: InProcess):
    for number, said in enumerate(STRANGE):
        response = await post(gateway, body(messages=[{"role": "user", "content": said}], user=said))
        assert response.status_code == 200
        assert response.json()["choices"][0]["message"]["content"].startswith(f"You said: {said}"[:1000])
        assert "x-injected" not in response.headers
        await gateway.ended(number + 1)
    long = [string for string in STRANGE if len(string) > 256]
    for said in STRANGE:
        response = await gateway.ask(model=said, models=[said] if said not in long else None)
        assert response.status_code == (400 if said in ("", *long) else 404)
        assert len(said) < 3 or said not in response.text


async def test_the_most_messages(gateway: InProcess):
    assert (await post(gateway, body(messages=HELLO * 2048))).status_code == 200
    assert (await post(gateway, body(n=8, max_tokens=1))).status_code == 200
    await gateway.ended(2)
    error = error_of(await post(gateway, body(n=128, max_tokens=1)), 400, "invalid_request_error")
    assert (error["param"], error["message"]) == ("n", "The sandbox answers with 8 choices at most.")


async def test_host_is_not_believed(gateway: InProcess):
    for host in ("a:b:c", "[::1]:80", "a:b", "evil/#@x", "evil.example.com", "x" * 1000, CANARY):
        response = await post(gateway, body(), {"host": host})
        assert response.status_code == 200
        assert host not in response.text + str(response.headers)


async def test_a_forwarded_address_is_not_believed(gateway: InProcess):
    await gateway.books.execute("update gateway.api_keys set ip_allowlist = '{203.0.113.0/24}'")
    for name in ("x-forwarded-for", "x-real-ip", "forwarded", "cf-connecting-ip", "true-client-ip"):
        value = "for=203.0.113.9" if name == "forwarded" else "203.0.113.9"
        error_of(await post(gateway, body(), {name: value}), 403, "ip_not_allowed")


async def test_headers_that_change_nothing(gateway: InProcess):
    many = {f"x-many-{number}": CANARY for number in range(500)}
    for headers in (many, {"range": "bytes=0-1"}, {"if-none-match": "*"}, {"expect": "100-continue"}):
        response = await post(gateway, body(), headers)
        assert response.status_code == 200
        assert CANARY not in str(response.headers)
    overridden = await gateway.client.get(PATH, headers=gateway.headers({"x-http-method-override": "POST"}))
    error_of(overridden, 405, "method_not_allowed")
