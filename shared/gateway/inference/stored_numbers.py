"""Numbers that grow when they are stored: Postgres writes 1e308 with all of its 309 digits."""

from __future__ import annotations

import math
import re
from typing import Any

from gateway.errors import InvalidRequest

MOST_MORE_DIGITS = 16_384
"""Digits that the numbers of a request may have more where they are stored than where they were sent."""
EXPONENT = re.compile(rb"[0-9.][eE][+-]?([0-9]{2,})")


def refuse_wide(raw: bytes, body: Any) -> None:
    """Refuse a request, `raw` as it was sent and `body` as it was read, whose numbers would be far longer where they
    are stored. Most requests have no number with an exponent, and are read no further. Raises InvalidRequest.
    """
    if sum(int(found[1][:4]) for found in EXPONENT.finditer(raw)) <= MOST_MORE_DIGITS:
        return
    if sum(map(_more_digits, _numbers(body))) > MOST_MORE_DIGITS:
        raise InvalidRequest(
            "The request's numbers are too long to be stored: write them without large exponents, or send them as"
            " text. A response that need not be stored can be asked for with `store`: false."
        )


def _numbers(body: Any) -> list[float]:
    """Every number in a JSON value that was written with a point or an exponent."""
    found, waiting = [], [body]
    while waiting:
        value = waiting.pop()
        if isinstance(value, float):
            found.append(value)
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return found


def _more_digits(value: float) -> int:
    """How many zeros a number has when it is written without an exponent."""
    return abs(math.frexp(value)[1]) * 3 // 10
