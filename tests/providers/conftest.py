"""Connections to providers are closed with the test that opened them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway import outbound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture(autouse=True)
async def _connections() -> AsyncIterator[None]:
    yield
    await outbound.close()
