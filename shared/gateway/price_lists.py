"""Providers' price lists: read by a job, compared with what is sold, and believed only within reason.

Only offers that are stored are looked at: what is sold is the operator's choice. Lists are public; no key is sent.
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway import database, outbound, providers, telemetry
from gateway.errors import GatewayError, ProviderError
from gateway.providers.base import Provider

READ_S = 20.0
MOST_BYTES = 16 << 20
LISTS = ("openrouter", "chutes")
"""The providers whose catalogues name prices."""


async def sync() -> dict[str, Any]:
    """Take every provider's list. One that cannot be read changes nothing and is told in the log."""
    told: dict[str, Any] = {}
    for name in LISTS:
        try:
            listings = await _read(providers.without_key(name))
            told[name] = await database.call("sync_offers", provider=name, listings=listings)
        except GatewayError as error:
            telemetry.log("price_list_failed", level="WARNING", provider=name, code=error.code)
            told[name] = {"failed": error.code}
    await database.call("refresh_catalogue")
    return told


async def _read(provider: Provider) -> list[dict[str, Any]]:
    """The entries of a provider's list. Raises ProviderError."""
    headers = {"accept": "application/json", "accept-encoding": "identity"}
    status, body = await outbound.get(provider.catalogue_url, headers, within_s=READ_S, most_bytes=MOST_BYTES)
    if status != 200:
        raise ProviderError("The price list could not be read.")
    try:
        listings = provider.listings(msgspec.json.decode(body))
    except (msgspec.DecodeError, LookupError, TypeError, AttributeError) as error:
        raise ProviderError("The price list is of another kind.") from error
    names = ("upstream_id", "prompt_price", "completion_price")
    return [{name: getattr(listing, name) for name in names} for listing in listings]


async def quarantined() -> list[dict[str, Any]]:
    """Prices that cannot be right and that nobody has decided on."""
    return list(await database.call("quarantined_prices"))


async def decide(quarantine_id: int, *, accept: bool, actor: dict[str, Any]) -> dict[str, Any]:
    """Sell at a quarantined price from now on, or stay with the stored one. Raises NotFound and InvalidRequest."""
    decided = await database.call("decide_price", quarantine_id=quarantine_id, accept=accept, actor=actor)
    return dict(decided)
