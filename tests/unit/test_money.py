"""Money is exact: every figure agrees with fractions."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway import money
from gateway.money import MAX_NANO, MILLION, NANO

AMOUNTS = st.integers(0, MAX_NANO)
CHARGES = st.lists(st.tuples(st.integers(0, 10_000_000), st.integers(0, 10**12)), max_size=5)


@given(AMOUNTS)
def test_what_is_shown_parses_to_the_same(nano: int):
    assert money.parse(money.show(nano)) == nano
    assert Fraction(money.show(nano)) * NANO == nano
    assert money.show(-nano) == (f"-{money.show(nano)}" if nano else "0")


@given(AMOUNTS)
def test_a_number_in_json_is_exact(nano: int):
    encoded = msgspec.json.encode(money.number(nano))
    assert Fraction(encoded.decode()) * NANO == nano


@given(AMOUNTS)
def test_a_price_is_shown_exactly_and_never_in_exponents(nano: int):
    shown = money.show_price(nano)
    assert "E" not in shown
    assert Fraction(shown) * NANO * MILLION == nano
    assert money.parse(shown, scale=NANO * MILLION) == nano


@given(CHARGES)
def test_cost_is_exact_and_rounded_up_once(charges: list[tuple[int, int]]):
    assert money.cost(*charges) == ceil(sum((Fraction(units * price, MILLION) for units, price in charges), Fraction()))


@given(CHARGES, st.integers(0, 10_000), st.integers(0, 10**9))
def test_more_never_costs_less(charges: list[tuple[int, int]], units: int, price: int):
    assert money.cost(*charges, (units, price)) >= money.cost(*charges)
    if charges:
        (first_units, first_price), *rest = charges
        assert money.cost((first_units + units, first_price + price), *rest) >= money.cost(*charges)


@given(st.integers(0, 10**7), st.integers(0, 10**7), st.integers(0, 10**12))
def test_splitting_is_never_cheaper(one: int, other: int, price: int):
    assert money.cost((one, price)) + money.cost((other, price)) >= money.cost((one + other, price))


@pytest.mark.parametrize(
    ("amount", "nano"),
    [("0", 0), ("0.000000001", 1), ("1.5", 1_500_000_000), ("007", 7 * NANO), ("9223372036.854775807", MAX_NANO)],
)
def test_amounts(amount: str, nano: int):
    assert money.parse(amount) == nano


@pytest.mark.parametrize(
    "amount",
    [
        "",
        " ",
        "x",
        "-1",
        "-0",
        "NaN",
        "sNaN",
        "Infinity",
        "0.0000000001",
        "9223372036.854775808",
        "1e10",
        "1e-10",
        "1,5",
    ],
)
def test_what_is_no_amount_is_refused(amount: str):
    with pytest.raises(ValueError, match=r"not|too large|finer"):
        money.parse(amount)


@pytest.mark.parametrize("amount", ["1e999999", "1_000", " 1 ", "+1", "٣", "1.", ".5", "1\n", 0.5, True])
def test_only_a_plain_decimal_string_is_an_amount(amount: Any):
    with pytest.raises((ValueError, TypeError)):
        money.parse(amount)
