"""Featherless: open models under a flat subscription; its catalogue names no prices (https://featherless.ai/docs)."""

from __future__ import annotations

from typing import Any

from gateway.providers.base import Listing, Provider
from gateway.settings import Settings


class Featherless(Provider):
    name = "featherless"

    def listings(self, catalogue: Any) -> list[Listing]:
        return [
            Listing(
                upstream_id=entry["id"],
                name=entry.get("name") or entry["id"],
                context_length=entry.get("context_length"),
                max_output_tokens=entry.get("max_completion_tokens"),
                prompt_price=None,
                completion_price=None,
            )
            for entry in catalogue["data"]
        ]


def provider(settings: Settings) -> Provider:
    """Make it from the deployment's settings, which have its key."""
    own = settings.providers["featherless"]
    return Featherless(own.base_url or "https://api.featherless.ai/v1", {"authorization": f"Bearer {own.key.reveal()}"})
