"""A million usages at random: what is charged, against exact arithmetic on the prices as they are written."""

from __future__ import annotations

import secrets
from fractions import Fraction

from gateway import money
from gateway.credits import Offer
from gateway.inference.metering import Usage, cost_nano

USAGES = 1_000_000
PRICES = (
    "0",
    "0.0000000375",
    "0.00000015",
    "0.0000025",
    "0.000015",
    "0.00006",
    "0.000000000000001",
    "0.123456789012345",
)
"""Dollars a token, as catalogues write them: down to a millionth of a nano-dollar."""
REQUEST_PRICES = ("0", "0.01", "0.000000001", "0.0000000000005")
TIERS = 200
"""Offers at random: a model has other prices from some length on, and an image is a request's price."""


def an_offer() -> tuple[Offer, list[Fraction]]:
    """An offer at random, and its prices in nano-dollars: prompt, cached, written to the cache, completion, request."""
    written = [secrets.choice(PRICES) for _ in range(4)] + [secrets.choice(REQUEST_PRICES)]
    prompt, cached, stored, completion, request = [
        money.parse(price, scale=money.NANO * money.MILLION) for price in written
    ]
    offer = Offer(
        "m", "p", "u", 4096, prompt_price=prompt, completion_price=completion, request_price=request,
        cache_read_price=cached, cache_write_price=stored,
    )  # fmt: skip
    return offer, [Fraction(price) * money.NANO for price in written]


def test_a_million_charges_are_exact():
    """Each is the exact cost rounded up once, so that all of them are within a nano-dollar each of the exact sum."""
    offers = [an_offer() for _ in range(TIERS)]
    # whole numbers over one denominator: exact, and fast enough for a million
    scale = 10**15
    scaled = [(offer, [int(price * scale) for price in exact]) for offer, exact in offers]
    assert all(
        Fraction(whole, scale) == price
        for (_, exact), (_, parts) in zip(offers, scaled, strict=True)
        for whole, price in zip(parts, exact, strict=True)
    )
    charged = exact_sum = 0
    noise = secrets.token_bytes(12 * USAGES)
    for number in range(USAGES):
        part = int.from_bytes(noise[12 * number : 12 * number + 12])
        offer, prices = scaled[part % TIERS]
        prompt, completion = part >> 8 & 0x1FFFF, part >> 32 & 0xFFFF
        cached = (part >> 52 & 0x1FFFF) % (prompt + 1)
        stored = (part >> 72 & 0x1FFFF) % (prompt - cached + 1)
        cost = cost_nano(Usage(prompt, completion, cached=cached, cache_written=stored), offer)
        units = (prompt - cached - stored, cached, stored, completion, 1)
        exact = sum(count * price for count, price in zip(units, prices, strict=True))
        assert cost == -(-exact // scale)
        charged += cost
        exact_sum += exact
    assert 0 <= charged - Fraction(exact_sum, scale) < USAGES
