"""A million usages at random: what is charged, against exact arithmetic on the prices as they are written."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import msgspec
import pytest

from gateway import money
from gateway.credits import Offer, Tier
from gateway.inference.metering import Usage, cost_nano

if TYPE_CHECKING:
    from tests.conftest import Chance

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
"""Offers at random, each with other prices above some length."""


def an_offer(chance: Chance) -> tuple[Offer, list[list[Fraction]], int]:
    """An offer at random, its prices in nano-dollars (prompt, cached, written to the cache, completion, request) below
    and above a length, and that length.
    """
    request = chance.choice(REQUEST_PRICES)
    written = [[chance.choice(PRICES) for _ in range(4)] for _ in range(2)]
    names = ("prompt_price", "cache_read_price", "cache_write_price", "completion_price")
    below, above = [
        {name: money.parse(price, scale=money.NANO * money.MILLION) for name, price in zip(names, prices, strict=True)}
        for prices in written
    ]
    length = chance.randrange(0x1FFFF)
    of_request = money.parse(request, scale=money.NANO * money.MILLION)
    tiers = [Tier(length, **above)]
    head = {"model": "m", "provider": "p", "upstream_id": "u", "max_output_tokens": 4096}
    offer = msgspec.convert({**head, "request_price": of_request, "tiers": tiers, **below}, Offer)
    return offer, [[Fraction(price) * money.NANO for price in [*prices, request]] for prices in written], length


@pytest.mark.slow("a million charges: the number that the promise names")
def test_a_million_charges_are_exact(chance: Chance):
    """Each is the exact cost rounded up once, so that all of them are within a nano-dollar each of the exact sum."""
    offers = [an_offer(chance) for _ in range(TIERS)]
    # whole numbers over one denominator: exact, and fast enough for a million
    scale = 10**15
    scaled = [(offer, [[int(p * scale) for p in prices] for prices in exact], at) for offer, exact, at in offers]
    assert all(
        [[Fraction(whole, scale) for whole in prices] for prices in parts] == exact
        for (_, exact, _), (_, parts, _) in zip(offers, scaled, strict=True)
    )
    charged = exact_sum = 0
    noise = chance.randbytes(12 * USAGES)
    for number in range(USAGES):
        part = int.from_bytes(noise[12 * number : 12 * number + 12])
        offer, tiers, length = scaled[part % TIERS]
        prompt, completion = part >> 8 & 0x1FFFF, part >> 32 & 0xFFFF
        cached = (part >> 52 & 0x1FFFF) % (prompt + 1)
        stored = (part >> 72 & 0x1FFFF) % (prompt - cached + 1)
        prices = tiers[prompt > length]
        cost = cost_nano(Usage(prompt, completion, cached=cached, cache_written=stored), offer)
        units = (prompt - cached - stored, cached, stored, completion, 1)
        exact = sum(count * price for count, price in zip(units, prices, strict=True))
        assert cost == -(-exact // scale)
        charged += cost
        exact_sum += exact
    assert 0 <= charged - Fraction(exact_sum, scale) < USAGES
