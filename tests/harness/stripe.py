"""Stripe in its fake's place: the gateway of a test is paid there; its events come when the test delivers them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec
import pytest

from gateway import stripe_api
from gateway.settings import Secret, StripeSettings, settings
from local.stripe import Stripe
from tests.harness.gateway import InProcess, listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def stripe(gateway: InProcess, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Stripe]:
    """An account at Stripe, and a gateway that is paid there."""
    account = Stripe()
    async with listening(account.app) as account.address:
        account.webhook = f"{gateway.url}/api/stripe/webhook"
        own = StripeSettings(Secret(account.key), Secret(account.webhook_secret), account.address)
        changed = msgspec.structs.replace(settings, stripe=own)
        for module in ("stripe_api", "stripe_events"):
            monkeypatch.setattr(f"gateway.{module}.settings", changed)
        yield account
        await stripe_api.close()
