"""One double for each test, and the providers that talk to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway import outbound
from gateway.providers import ADAPTERS
from tests.providers.subjects import adapter

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gateway.providers.base import Provider
    from tests.harness.upstream import Upstream


@pytest.fixture(autouse=True)
async def _connections() -> AsyncIterator[None]:
    yield
    await outbound.close()


@pytest.fixture(params=ADAPTERS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def provider(name: str, upstream: Upstream) -> Provider:
    return adapter(name, f"{upstream.url}/v1")


@pytest.fixture
def one(upstream: Upstream) -> Provider:
    """Some provider, for what `base` does for all of them."""
    return adapter("openrouter", f"{upstream.url}/v1")
