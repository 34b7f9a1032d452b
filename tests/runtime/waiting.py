"""Waiting on a condition, with a deadline that only a broken test reaches."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

DEADLINE_S = 30


async def until(condition: Callable[[], object]) -> None:
    """Return when the condition holds. Raises TimeoutError."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():  # noqa: ASYNC110 - another process fulfils it
            await asyncio.sleep(0.01)
