"""Each provider's catalogue in its own shape, with exact prices in nano-dollars per million tokens."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from gateway.providers import ADAPTERS
from gateway.providers.base import Listing, price
from tests.providers.subjects import adapter, recorded

CATALOGUES = {
    "openrouter": [
        Listing("acme/tide-large", "Acme: Tide Large", 131072, 16384, 37_500_000, 150_000_000),
        Listing("acme/tide-large:free", "Acme: Tide Large (free)", 32768, None, 0, 0),
        Listing("openrouter/auto", "Auto Router", 2_000_000, None, None, None),
    ],
    "portkey": [
        Listing("tide-large", "tide-large", None, None, None, None),
        Listing("@acme-prod/tide-small", "@acme-prod/tide-small", None, None, None, None),
    ],
    "featherless": [
        Listing("acme/Tide-8B-Instruct", "Tide-8B-Instruct", 32768, 4096, None, None),
        Listing("acme/Tide-70B", "acme/Tide-70B", 16384, None, None, None),
    ],
    "chutes": [
        Listing("acme/Tide-32B-TEE", "acme/Tide-32B-TEE", 32768, 8192, 104_000_000, 416_000_000),
        Listing("acme/Tide-235B-TEE", "acme/Tide-235B-TEE", 40960, None, 298_900_000, 1_195_700_000),
        Listing("acme/Tide-Preview", "acme/Tide-Preview", 40960, None, None, None),
    ],
}


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_entry_is_listed_with_its_exact_prices(name: str):
    catalogue = msgspec.json.decode(recorded(name, "models.json"))
    assert adapter(name, "https://provider.example/v1").listings(catalogue) == CATALOGUES[name]


@pytest.mark.parametrize(
    ("dollars", "tokens", "nano"),
    [
        ("0.0000000375", 1, 37_500_000),
        ("4e-8", 1, 40_000_000),
        (0.1, 1_000_000, 100_000_000),
        ("0", 1, 0),
        ("0.0000000000000000001", 1, 1),  # finer than can be kept is rounded up: never sold below its price
        ("0.1999999999999999999", 1_000_000, 200_000_000),
    ],
)
def test_a_price_is_exact_or_rounded_up(dollars: Any, tokens: int, nano: int):
    assert price(dollars, tokens=tokens) == nano


@pytest.mark.parametrize("dollars", [None, "-1", -0.5, "", "free", "NaN", "Infinity", True, {}, "1e999999", "1000000"])
def test_what_is_no_price_is_unknown(dollars: Any):
    assert price(dollars, tokens=1) is None
