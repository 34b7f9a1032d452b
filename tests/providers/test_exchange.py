"""What goes over the wire to a provider, and what is made of all that can come back."""

from __future__ import annotations

import asyncio
import traceback
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gateway import sse
from gateway.credits import Hold, Limits, Offer
from gateway.errors import CODES, ProviderError, ProviderRateLimited
from gateway.inference import metering, requests
from gateway.inference.bill import Bill, Call
from gateway.keys import Key
from gateway.providers import ADAPTERS, base
from tests.harness.upstream import Fault, Upstream, dripped, head, streamed, until_closed, whole
from tests.providers.subjects import (
    CANARY,
    KEY,
    STREAM,
    VIRTUAL_KEY,
    Told,
    adapter,
    events,
    recorded,
    refused,
    request,
)

if TYPE_CHECKING:
    from gateway.providers.base import Provider

FINISHED = b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}'


# What is asked


async def test_the_request_goes_to_the_address_with_the_key(name: str, provider: Provider, upstream: Upstream):
    upstream.will(whole(recorded(name, "completion.json")))
    await provider.complete(request())
    (asked,) = upstream.requests
    assert (asked.method, asked.path) == ("POST", "/v1/chat/completions")
    assert asked.headers["content-type"] == "application/json"
    assert asked.headers["accept-encoding"] == "identity"
    assert asked.headers["x-portkey-api-key" if name == "portkey" else "authorization"].removeprefix("Bearer ") == KEY
    assert ("authorization" in asked.headers) is (name != "portkey")
    assert "cookie" not in asked.headers


async def test_openrouter_is_told_who_asks(upstream: Upstream):
    upstream.will(whole(recorded("openrouter", "completion.json")))
    await adapter("openrouter", upstream.url).complete(request())
    assert upstream.requests[0].headers["http-referer"] == "https://gateway.example"
    assert upstream.requests[0].headers["x-title"] == "Gatewayz"


@pytest.mark.parametrize(
    ("names", "headers"),
    [
        ({"PORTKEY_PROVIDER": "@acme-prod"}, {"x-portkey-provider": "@acme-prod"}),
        ({"PORTKEY_VIRTUAL_KEY": VIRTUAL_KEY}, {"x-portkey-virtual-key": VIRTUAL_KEY}),
    ],
)
async def test_portkey_is_told_who_is_behind_it(upstream: Upstream, names: dict[str, str], headers: dict[str, str]):
    upstream.will(whole(recorded("portkey", "completion.json")))
    await adapter("portkey", upstream.url, **names).complete(request())
    sent = upstream.requests[0].headers
    routing = {"x-portkey-provider", "x-portkey-virtual-key"}
    assert {header: sent[header] for header in routing & sent.keys()} == headers


@pytest.mark.parametrize("stream", [False, True])
async def test_the_callers_body_goes_through_with_the_models_own_name(name: str, upstream: Upstream, stream: bool):  # noqa: FBT001
    """Unknown fields included; what speaks to the gateway is left out, and the usage is asked for."""
    sent = request(
        stream=stream,
        transforms=["middle-out"],
        top_k=40,
        deep={"er": [1, 2.5, None, "ü"]},
        models=["b"],
        provider=name,
    )
    call_request, body = requests.parse(msgspec.json.encode(sent), requests.CompletionRequest)
    offer = Offer("acme/tide", name, "upstream/tide-1", 4096, 1, 1, 0, 0, 0)
    call = Call(Key("dev", "id", []), None, None, call_request, body, metering.bounds(call_request, 100))
    hold = Hold(Limits(None, None), max_tokens=77, offers=[offer])
    upstream.will(whole(recorded(name, "completion.json")))
    asked = adapter(name, upstream.url)
    await asked.complete(Bill(call, hold).upstream_body(offer, asked))
    expected = {member: value for member, value in sent.items() if member not in ("models", "provider")}
    expected |= {"model": "upstream/tide-1", "max_tokens": 77}
    expected |= {"stream_options": {"include_usage": True}} if stream else {}
    expected |= {"usage": {"include": True}} if name == "openrouter" else {}
    assert upstream.requests[0].json() == expected


# What is refused


REFUSALS = [(name, refusal) for name in ADAPTERS for refusal in msgspec.json.decode(recorded(name, "errors.json"))]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("name", "refusal"), REFUSALS, ids=lambda value: value.get("status") if isinstance(value, dict) else value
)
async def test_a_refusal_is_ours_and_says_nothing_of_theirs(
    name: str,
    refusal: dict[str, Any],
    upstream: Upstream,
    stream: bool,  # noqa: FBT001
):
    headers = {header.replace("-", "_"): value for header, value in refusal["headers"].items()}
    upstream.will(whole(msgspec.json.encode(refusal["body"]), refusal["status"], **headers))
    error = await refused(adapter(name, upstream.url), request(stream=stream))
    assert type(error) is CODES[refusal["code"]]
    assert error.retry_after_ms == refusal["retry_after_ms"]
    shown = repr(error) + repr(error.body("req")) + repr(error.headers()) + "".join(traceback.format_exception(error))
    assert CANARY not in shown
    assert KEY not in shown


@pytest.mark.parametrize(
    ("status", "code"),
    [
        *((status, "invalid_request_error") for status in (400, 409, 413, 422)),
        *((status, "provider_error") for status in (401, 402, 403, 404, 500, 502, 503, 529, 201, 204, 301, 307)),
        *((status, "provider_timeout") for status in (408, 504)),
        (429, "provider_rate_limited"),
    ],
)
async def test_every_status_has_its_error(one: Provider, upstream: Upstream, status: int, code: str):
    upstream.will(whole(b"<html>CANARY</html>" if status != 204 else b"", status, content_type="text/html"))
    for body in (request(), STREAM):
        error = await refused(one, body)
        assert type(error) is CODES[code]
        assert isinstance(error, base.FAILOVER) is (code != "invalid_request_error")


@pytest.mark.parametrize(
    ("value", "least", "most"),
    [
        ("3", 3000, 3000),
        ("0", 1000, 1000),
        ("86400", 120_000, 120_000),
        ("9" * 400, 120_000, 120_000),
        ("Wed, 21 Oct 2015 07:28:00 GMT", 1000, 1000),
        ("Fri, 31 Dec 2100 23:59:59 GMT", 120_000, 120_000),
        *((absurd, 5000, 5000) for absurd in (
            "", "soon", "-5", "1.5", "NaN", "٣", "Mon, 01 Jan 99999999999 00:00:00 GMT",
            "Fri, 31 Feb 2026 00:00:00 GMT", "Fri, 01 Jan 2100 00:00:00 -0000",
        )),
    ],
)  # fmt: skip
def test_retry_after_is_seconds_or_a_date_within_bounds(value: str, least: int, most: int):
    assert least <= base.retry_after_ms({"retry-after": value}) <= most


def test_retry_after_may_be_a_date():
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=60), usegmt=True)
    assert 20_000 <= base.retry_after_ms({"retry-after": soon}) <= 60_000


def test_no_retry_after_is_five_seconds():
    assert base.retry_after_ms({}) == 5000


# What is no answer


GARBAGE = {
    "html": b"<!doctype html><title>CANARY</title>",
    "empty": b"",
    "nan": b'{"choices":[{"index":0,"message":{"role":"assistant","content":"x"},"logprobs":NaN}]}',
    "array": b"[]",
    "string": b'"CANARY"',
    "null": b"null",
    "not utf-8": b'{"choices":[{"index":0,"message":{"content":"\xff"}}]}',
    "half a surrogate": b'{"choices":[{"index":0,"message":{"content":"\\ud800"}}]}',
    "deep": b"[" * 200_000,
    "two": b"{}{}",
    "error": b'{"error":{"message":"CANARY"}}',
    "error text": b'{"error":"CANARY"}',
    "error code": b'{"error":{"message":"CANARY","code":503}}',
    "error odd code": b'{"error":{"message":"CANARY","code":200}}',
    "error code text": b'{"error":{"message":"CANARY","code":"server_error"}}',
    "choices object": b'{"choices":{"0":{}}}',
    "choices number": b'{"choices":5}',
    "choices nulls": b'{"choices":[null]}',
}


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
async def test_garbage_with_status_200_is_a_provider_error(one: Provider, upstream: Upstream, garbage: bytes):
    for body, reply in (
        (request(), whole(garbage)),
        (STREAM, whole(garbage, content_type="text/html")),
        (STREAM, streamed(b"data: " + garbage + b"\n\n", b"data: [DONE]\n\n")),
    ):
        upstream.will(reply)
        error = await refused(one, body)
        assert isinstance(error, ProviderError)
        assert CANARY not in repr(error.body("req")) + "".join(traceback.format_exception(error))


@pytest.mark.parametrize("choices", [b"[]", b"[{}]", b"null", b'[{"message":null}]', b'[{"message":"hi"}]'])
async def test_a_whole_answer_without_a_message_is_none(one: Provider, upstream: Upstream, choices: bytes):
    upstream.will(whole(b'{"id":"x","choices":' + choices + b"}"))
    assert type(await refused(one, request())) is ProviderError


async def test_an_error_with_status_200_counts_by_its_code(one: Provider, upstream: Upstream):
    slow_down = b'{"error":{"message":"CANARY","code":429}}'
    upstream.will(whole(slow_down), streamed(sse.event(slow_down)))
    assert type(await refused(one, request())) is ProviderRateLimited
    assert type(await refused(one, STREAM)) is ProviderRateLimited


async def test_an_error_within_a_stream_ends_it(one: Provider, upstream: Upstream):
    """In OpenRouter's shape: a chunk with an error beside the choices."""
    broken = (
        b'{"id":"x","error":{"code":"server_error","message":"CANARY"},"choices":[{"index":0,"delta":{"content":""},'
    )
    broken += b'"finish_reason":"error"}]}'
    pieces = events(recorded("openrouter", "stream.sse"))[:5]
    upstream.will(streamed(*pieces, sse.event(broken)))
    heard = Told()
    with pytest.raises(ProviderError):
        await heard.hear(one, STREAM)
    assert heard.text
    assert heard.transcript.finish_reason is None


async def test_compressed_answers_are_refused_unread(one: Provider, upstream: Upstream):
    bomb = head(content_type="application/json", content_encoding="gzip"), b"\x1f\x8b", Fault.STALL
    upstream.will(bomb)
    assert type(await refused(one, request())) is ProviderError
    assert type(await refused(one, STREAM)) is ProviderError
    await upstream.idle()


async def test_redirects_are_not_followed(one: Provider, upstream: Upstream):
    upstream.will(whole(b"{}", 307, location=f"{upstream.url}/elsewhere"))
    assert type(await refused(one, request())) is ProviderError
    assert [asked.path for asked in upstream.requests] == ["/v1/chat/completions"]


async def test_an_answer_above_the_limit_is_not_read_on(
    one: Provider, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(base, "MAX_BODY_BYTES", 1000)
    monkeypatch.setattr(base, "MAX_ERROR_BYTES", 1000)
    upstream.will((head(), b" " * 1001, Fault.STALL), (head(500), b" " * 1001, Fault.STALL))
    assert type(await refused(one, request())) is ProviderError
    assert type(await refused(one, STREAM)) is ProviderError
    await upstream.idle()


async def test_proxy_variables_are_not_believed(one: Provider, upstream: Upstream, monkeypatch: pytest.MonkeyPatch):
    async with Upstream().open() as proxy:
        for variable in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(variable, proxy.url)
        upstream.will(whole(recorded("openrouter", "completion.json")))
        await one.complete(request())
        assert proxy.connections == 0


async def test_cookies_are_not_kept(one: Provider, upstream: Upstream):
    upstream.will(whole(recorded("openrouter", "completion.json"), set_cookie="session=1"))
    await one.complete(request())
    await one.complete(request())
    assert "cookie" not in upstream.requests[1].headers


# What is cut


@pytest.mark.parametrize(("file", "step"), [("stream.sse", 1), ("tools.sse", 5)])
async def test_a_stream_cut_at_any_byte_is_whole_or_an_error(name: str, upstream: Upstream, file: str, step: int):
    """Cut with and without a proper end of the connection: what is heard are whole chunks from the start."""
    provider, stream = adapter(name, upstream.url), recorded(name, file)
    upstream.will(streamed(*events(stream)))
    full = await Told().hear(provider, STREAM)
    outcomes = set()
    for at in range(0, len(stream), step):
        part = stream[:at]
        upstream.will(streamed(part, Fault.CLOSE) if at % 2 and part else until_closed(part))
        heard = Told()
        try:
            async with asyncio.timeout(5):
                await heard.hear(provider, STREAM)
        except ProviderError:
            assert heard.transcript.finish_reason is None
        else:
            assert heard.transcript.finish_reason == full.transcript.finish_reason
        assert heard.chunks == full.chunks[: len(heard.chunks)]
        outcomes.add(heard.transcript.finish_reason)
    assert outcomes == {None, full.transcript.finish_reason}


async def test_a_whole_answer_cut_anywhere_is_an_error(name: str, upstream: Upstream):
    provider, completion = adapter(name, upstream.url), recorded(name, "completion.json").strip()
    for at in range(0, len(completion), 7):
        start = head(content_type="application/json", content_length=str(len(completion)))
        upstream.will((start, completion[:at], Fault.CLOSE), until_closed(completion[:at]))
        assert isinstance(await refused(provider, request()), ProviderError)
        assert isinstance(await refused(provider, request()), ProviderError)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_reset_is_an_error(one: Provider, upstream: Upstream, stream: bool):  # noqa: FBT001
    upstream.will((head(content_length="99"), b"data: {", 0.01, Fault.RESET))
    assert type(await refused(one, request(stream=stream))) is ProviderError


async def test_a_broken_chunk_is_an_error(one: Provider, upstream: Upstream, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base, "KEEP_ALIVE_S", 0.05)
    upstream.will((head(transfer_encoding="chunked"), b"2\r\n: \r\n", 0.01, b"zzz\r\n", Fault.STALL))
    assert type(await refused(one, request())) is ProviderError
    assert type(await refused(one, STREAM)) is ProviderError


async def test_what_breaks_after_the_last_finish_reason_takes_nothing_away(one: Provider, upstream: Upstream):
    upstream.will(
        streamed(sse.event(b'{"choices":[{"index":0,"delta":{"content":"x"}}]}'), sse.event(FINISHED), Fault.RESET)
    )
    heard = await Told().hear(one, STREAM)
    assert (heard.text, heard.transcript.finish_reason) == ("x", "stop")


async def test_every_choice_needs_its_finish_reason(one: Provider, upstream: Upstream):
    upstream.will(streamed(sse.event(FINISHED)))
    assert type(await refused(one, request(stream=True, n=2))) is ProviderError
    upstream.will(streamed(sse.event(FINISHED), sse.event(FINISHED.replace(b'"index":0', b'"index":1'))))
    await Told().hear(one, request(stream=True, n=2))


async def test_nothing_is_read_after_done(name: str, upstream: Upstream):
    stream = recorded(name, "stream.sse")
    upstream.will(streamed(stream, b'data: {"choices":[{"delta":{"content":"more"}}]}\n\n', b"data: [DONE]\n\n"))
    heard = await Told().hear(adapter(name, upstream.url), STREAM)
    assert "more" not in heard.text


async def test_a_stream_that_drips_is_the_same(name: str, upstream: Upstream):
    provider, stream = adapter(name, upstream.url), recorded(name, "stream.sse")
    upstream.will(streamed(stream), streamed(*dripped(stream)))
    full, dripping = [await Told().hear(provider, STREAM) for _ in range(2)]
    assert dripping.chunks == full.chunks
    assert dripping.transcript.usage == full.transcript.usage
