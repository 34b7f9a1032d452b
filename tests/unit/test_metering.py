"""What a completion can cost, and did: bounds hold everything, only believable usage is believed."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.credits import Hold, Limits, Offer
from gateway.inference import metering, requests
from gateway.inference.bill import Bill, Call
from gateway.inference.metering import MEDIA_TOKENS, TOOLS_TOKENS, Bounds, Usage
from gateway.keys import Key

TOKENS = st.integers(0, 10_000_000)
PRICES = st.integers(0, 10**11)
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
MEDIA = st.one_of(
    st.builds(lambda url: {"type": "image_url", "image_url": {"url": url}}, TEXTS),
    st.builds(lambda data: {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}, TEXTS),
    st.builds(lambda data: {"type": "file", "file": {"file_data": data}}, TEXTS),
)
WORDS = st.builds(lambda text: {"type": "text", "text": text}, TEXTS)
CONTENTS = st.one_of(TEXTS, st.lists(st.one_of(WORDS, MEDIA), max_size=4))
MESSAGES = st.lists(st.builds(lambda content: {"role": "user", "content": content}, CONTENTS), min_size=1, max_size=5)
BODIES = st.builds(lambda messages: {"model": "m", "messages": messages}, MESSAGES)


def bounds_of(raw: bytes) -> Bounds:
    request, _ = requests.parse(raw, requests.CompletionRequest)
    return metering.bounds(request, len(raw))


def said(body: dict[str, Any]) -> int:
    """Bytes of all text in a body's messages."""
    contents = [message["content"] for message in body["messages"]]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    texts = [content for content in contents if isinstance(content, str)] + [part.get("text", "") for part in parts]
    return sum(len(text.encode()) for text in texts)


def media(body: dict[str, Any]) -> int:
    return sum(
        part["type"] != "text"
        for message in body["messages"]
        if isinstance(message["content"], list)
        for part in message["content"]
    )


def priced(**prices: int) -> Offer:
    parts = ("prompt_price", "completion_price", "request_price", "cache_read_price", "cache_write_price")
    return msgspec.convert(
        {
            "model": "m", "provider": "sandbox", "upstream_id": "m", "max_output_tokens": 4096,
            **dict.fromkeys(parts, 0), **prices,
        },
        Offer,
    )  # fmt: skip


@given(BODIES)
def test_a_bound_holds_all_text_and_all_media(body: dict[str, Any]):
    bounds = bounds_of(msgspec.json.encode(body))
    assert bounds.prompt_tokens >= said(body) + media(body) * MEDIA_TOKENS
    assert bounds.likely_prompt_tokens <= bounds.prompt_tokens
    assert bounds.expected_tokens > bounds.likely_prompt_tokens >= media(body) * MEDIA_TOKENS


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image_url", "image_url": {"url": "x", "much": "MUCH"}},
        {"type": "input_text", "text": "x" * 20_000},
        {"type": "image_url", "text": "x" * 20_000},
        {"type": "x", "image_url": {"url": "x" * 20_000}},
        {"text": "x" * 20_000},
        {"type": ["text"], "text": "x" * 20_000},
        {"type": "image_url", "image_url": "x" * 20_000},
        {"type": "image_url", "image_url": {"url": ["x" * 20_000]}},
    ],
)
def test_no_part_hides_the_text_beside_it(part: dict[str, Any]):
    """Numbers that are longer when written again, text in a part that calls itself an image."""
    numbers = b",".join([b"1e15"] * 5000)
    raw = msgspec.json.encode(
        {"model": "m", "messages": [{"role": "user", "content": [part, {"type": "text", "text": "y" * 5000}]}]}
    )
    raw = raw.replace(b'"MUCH"', b"[" + numbers + b"]")
    assert bounds_of(raw).prompt_tokens >= 20_000 + 5000


def test_media_count_by_number_and_not_by_size():
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64," + "A" * 1_000_000}}
    bounds = bounds_of(msgspec.json.encode({"model": "m", "messages": [{"role": "user", "content": [part] * 3}]}))
    assert 3 * MEDIA_TOKENS < bounds.likely_prompt_tokens < bounds.prompt_tokens < 3 * MEDIA_TOKENS + 1000


def test_tools_and_choices_are_expected():
    plain = {"model": "m", "messages": [{"role": "user", "content": "x"}]}
    bare, tooled = (bounds_of(msgspec.json.encode(plain | more)) for more in ({}, {"tools": [{"type": "function"}]}))
    assert tooled.prompt_tokens >= bare.prompt_tokens + TOOLS_TOKENS
    few, many = (bounds_of(msgspec.json.encode(plain | {"max_tokens": 10, "n": n})) for n in (1, 5))
    assert few.expected_tokens == few.likely_prompt_tokens + 10
    assert many.expected_tokens == many.likely_prompt_tokens + 50


ODD = st.one_of(
    st.none(), st.booleans(), st.text(), st.floats(), st.integers(max_value=-1), st.integers(min_value=10_000_001),
    st.just(10**18), st.lists(st.integers()), st.dictionaries(st.text(), st.integers()),
)  # fmt: skip


@given(tokens=TOKENS, odd=ODD)
def test_unbelievable_usage_is_none(tokens: int, odd: Any):
    assert metering.usage_of(odd) is None
    assert metering.usage_of({"prompt_tokens": odd, "completion_tokens": tokens}) is None
    assert metering.usage_of({"prompt_tokens": tokens, "completion_tokens": odd}) is None
    assert metering.usage_of({"prompt_tokens": tokens}) is None


@given(prompt=TOKENS, completion=TOKENS, details=st.one_of(ODD, TOKENS))
def test_odd_details_never_make_more_of_a_usage_than_it_is(prompt: int, completion: int, details: Any):
    usage = metering.usage_of(
        {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "prompt_tokens_details": {"cached_tokens": details, "cache_write_tokens": details},
            "completion_tokens_details": details if isinstance(details, list) else {"reasoning_tokens": details},
            "cost": details,
        }
    )
    assert usage
    assert (usage.prompt, usage.completion) == (prompt, completion)
    assert 0 <= usage.cached <= usage.cached + usage.cache_written <= prompt
    assert 0 <= usage.reasoning <= completion
    assert usage.upstream_cost_nano is None or usage.upstream_cost_nano >= 0


def test_a_reported_cost_is_kept_in_nano_dollars():
    reported = {"prompt_tokens": 1, "completion_tokens": 1, "cost": 0.00000965}
    usage = metering.usage_of(reported)
    assert usage
    assert usage.upstream_cost_nano == 9650


@given(prompt=TOKENS, completion=TOKENS, cached=TOKENS, prices=st.lists(PRICES, min_size=5, max_size=5))
def test_cost_is_each_token_once_at_its_price(prompt: int, completion: int, cached: int, prices: list[int]):
    cached = min(cached, prompt)
    prompt_price, completion_price, request_price, cache_read_price, cache_write_price = prices
    offer = priced(
        prompt_price=prompt_price, completion_price=completion_price, request_price=request_price,
        cache_read_price=cache_read_price, cache_write_price=cache_write_price,
    )  # fmt: skip
    written = min(prompt - cached, 7)
    usage = Usage(prompt, completion, cached=cached, cache_written=written, reasoning=completion)
    exact = (
        (prompt - cached - written) * offer.prompt_price
        + cached * offer.cache_read_price
        + written * offer.cache_write_price
        + completion * offer.completion_price
        + offer.request_price
    )
    assert metering.cost_nano(usage, offer) == ceil(Fraction(exact, 1_000_000))


@given(body=BODIES, tokens=st.integers(1, 1000), prompt=PRICES, completion=PRICES, used=st.integers(0, 100))
def test_usage_within_the_limits_costs_no_more_than_the_bound(
    body: dict[str, Any], tokens: int, prompt: int, completion: int, used: int
):
    bounds, offer = bounds_of(msgspec.json.encode(body)), priced(prompt_price=prompt, completion_price=completion)
    bound = metering.cost_nano(Usage(bounds.prompt_tokens, tokens), offer)
    within = Usage(bounds.prompt_tokens * used // 100, tokens * used // 100)
    assert metering.cost_nano(within, offer) <= bound


@given(seen=st.integers(0, 10**7), chunks=st.integers(0, 10**5), bound=st.integers(0, 10**12), price=PRICES)
def test_an_estimate_is_never_charged_above_the_hold(seen: int, chunks: int, bound: int, price: int):
    raw = b'{"model":"m","messages":[{"role":"user","content":"When is the tide?"}]}'
    request, body = requests.parse(raw, requests.CompletionRequest)
    call = Call(Key("dev", "id", []), None, None, request, body, metering.bounds(request, len(raw)))
    bill = Bill(call, Hold(Limits(None, None), bound_nano=bound))
    bill.offer = priced(prompt_price=price, completion_price=price)
    bill.charge(metering.estimate(call.bounds, seen, chunks))
    assert bill.usage
    assert bill.usage.is_estimated
    assert bill.usage.prompt <= call.bounds.prompt_tokens
    assert bill.usage.completion >= max(chunks, ceil(seen / 4))
    assert bill.cost_nano == min(bound, metering.cost_nano(bill.usage, bill.offer))
    bill.charge(Usage(10, 10))
    assert bill.cost_nano == metering.cost_nano(Usage(10, 10), bill.offer)
