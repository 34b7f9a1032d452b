"""Money: integers of nano-dollars (1e-9 USD), and prices as integers of nano-dollars per million units.

A price of $0.0000000375 a token is 37 500 000 nano-dollars per million, exact where nano-dollars a token are not.
No float is ever accepted.
"""

from __future__ import annotations

import re
from decimal import Decimal, localcontext

from msgspec import Raw

NANO = 1_000_000_000
MILLION = 1_000_000
MAX_NANO = 2**63 - 1
AMOUNT = re.compile(r"[0-9]{1,19}(\.[0-9]{1,30})?")


def parse(amount: str, *, scale: int = NANO) -> int:
    """A plain decimal string of dollars in nano-dollars; `scale=NANO * MILLION` for a price per unit.

    Raises ValueError when it is not a plain decimal number, is negative, or is finer or larger than can be kept.
    """
    if not AMOUNT.fullmatch(amount):
        raise ValueError("not a non-negative decimal number")
    with localcontext(prec=60):
        nano = Decimal(amount) * scale
        if nano > MAX_NANO:
            raise ValueError("too large")
        if nano != nano.to_integral_value():
            raise ValueError("finer than the smallest unit")
    return int(nano)


def show(nano: int) -> str:
    """Nano-dollars as an exact decimal string of dollars: 1_500_000_000 -> "1.5"."""
    sign = "-" if nano < 0 else ""
    dollars, rest = divmod(abs(nano), NANO)
    return f"{sign}{dollars}.{rest:09d}".rstrip("0").rstrip(".")


def number(nano: int) -> Raw:
    """Nano-dollars as an exact JSON number of dollars, ready to be encoded."""
    return Raw(show(nano).encode())


def show_price(nano_per_million: int) -> str:
    """A price as an exact decimal string of dollars per unit, as OpenRouter's model list has it."""
    return f"{Decimal(nano_per_million).scaleb(-15).normalize():f}"


def cost(*charges: tuple[int, int]) -> int:
    """Nano-dollars for (units, nano-dollars per million units) pairs, rounded up once for all of them together.

    Rounding up the sum makes it so that splitting a request never makes it cheaper.
    """
    total = sum(units * price for units, price in charges)
    return -(-total // MILLION)
