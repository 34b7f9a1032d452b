"""Large bodies: counted before they are parsed, parsed off the event loop one after the other, and weighed after.

A value of JSON takes up to a hundred times its bytes as an object of Python, and parsing megabytes takes as long as
hundreds of small requests: neither may be everybody's.
"""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from gateway.errors import InvalidRequest
from gateway.http.room import Share

SMALL_BYTES = 64 << 10
"""A body of no more is parsed on the event loop: it is done before a thread would have begun."""
MAX_VALUES = 400_000
"""The longest list of tokens that embedding models take has 300,000."""
STRING = re.compile(rb'"(?>[^"\\]+|\\(?:.|\Z))*+(?:"|\Z)', re.DOTALL)
"""A string of JSON, or one that the end of the body cuts: it always matches, so its time is linear."""

_thread = ThreadPoolExecutor(1, "bodies")


async def parsed[T](raw: bytes, share: Share, parse: Callable[[bytes], T], most_values: int = MAX_VALUES) -> T:
    """What `parse` makes of a body. Raises what it raises, InvalidRequest for a body of more than `most_values` values
    and Overloaded.
    """
    if len(raw) <= SMALL_BYTES:
        return parse(raw)
    found, size = await asyncio.get_running_loop().run_in_executor(_thread, _parsed, raw, parse, most_values)
    share.take(size)
    return found


def _parsed[T](raw: bytes, parse: Callable[[bytes], T], most_values: int) -> tuple[T, int]:
    if _values(raw) > most_values and _values(STRING.sub(b"", raw)) > most_values:
        raise InvalidRequest(f"The body has more than {most_values:,} values. Send fewer in a request.")
    found = parse(raw)
    return found, weight(found)


def _values(raw: bytes) -> int:
    """How many values a body without strings has; of one with strings, as many at least. Each value but the first of
    an object or list stands behind a comma.
    """
    return 1 + raw.count(b",") + raw.count(b"[") + raw.count(b"{") - raw.count(b"[]") - raw.count(b"{}")


def weight(value: Any) -> int:
    """Bytes that what JSON became takes in memory; small numbers and names of members are shared by all."""
    total, left = 0, [value]
    while left:
        each = left.pop()
        if isinstance(each, dict):
            left.extend(each.values())
        elif isinstance(each, list | tuple):
            left.extend(each)
        elif not isinstance(each, str):
            continue
        total += sys.getsizeof(each)
    return total
