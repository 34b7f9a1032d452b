"""Portkey: a gateway key, and who is behind it: a provider's slug or a virtual key.

https://portkey.ai/docs/api-reference/inference-api/headers
"""

from __future__ import annotations

from typing import Any

from gateway.providers.base import Listing, Provider
from gateway.settings import Settings


class Portkey(Provider):
    name = "portkey"

    def listings(self, catalogue: Any) -> list[Listing]:
        return [Listing(entry["id"], entry["id"], None, None, None, None) for entry in catalogue["data"]]


def provider(settings: Settings) -> Provider:
    """Make it from the deployment's settings, which have its key."""
    own = settings.providers["portkey"]
    headers = {"x-portkey-api-key": own.key.reveal()}
    if settings.portkey_virtual_key:
        headers["x-portkey-virtual-key"] = settings.portkey_virtual_key.reveal()
    if settings.portkey_provider:
        headers["x-portkey-provider"] = settings.portkey_provider
    portkey = Portkey(own.base_url or "https://api.portkey.ai/v1", headers)
    if "openai" in (settings.portkey_provider or ""):
        # OpenAI's newer models refuse the other name; of other providers Portkey leaves out names that they do not have
        portkey.ceiling = "max_completion_tokens"
    return portkey
