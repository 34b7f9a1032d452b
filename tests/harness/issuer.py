"""Who signs users in: the issuer of `make run`, behind a real socket, and the gateway's settings for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from gateway import identities, leaks, outbound, settings
from local.privy import SUPABASE_PATH, Privy
from tests.harness.gateway import listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from tests.harness.gateway import Gateway


class Issuer(Privy):
    """Privy and Supabase Auth at `address`."""

    address = ""

    @property
    def supabase(self) -> str:
        """The issuer that Supabase's tokens name."""
        return self.address + SUPABASE_PATH

    def trusted(self, monkeypatch: pytest.MonkeyPatch, **changes: str) -> None:
        """Have the gateway believe this issuer, with these changes to its settings."""
        loaded = settings.load({**os.environ, **self.settings(self.address), **changes})
        for module in (identities, leaks):
            monkeypatch.setattr(module, "settings", loaded)

    async def sign_in(self, gateway: Gateway, email: str, **body: Any) -> httpx.Response:
        """Sign in with an identity token of the user with this address."""
        token = self.identity_token(self.user(email))
        return await gateway.client.post("/auth/privy", json={"token": token, **body})


@pytest.fixture
async def issuer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Issuer]:
    """An issuer that the gateway believes."""
    running = Issuer()
    async with listening(running.app) as running.address:
        running.trusted(monkeypatch)
        yield running
        await outbound.close()
