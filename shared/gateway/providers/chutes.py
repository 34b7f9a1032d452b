"""Chutes: its catalogue has prices as JSON numbers of dollars per million tokens (https://chutes.ai/docs)."""

from __future__ import annotations

from typing import Any

from gateway.money import MILLION
from gateway.providers.base import Listing, Provider, price
from gateway.settings import Settings


class Chutes(Provider):
    name = "chutes"

    def listings(self, catalogue: Any) -> list[Listing]:
        return [
            Listing(
                upstream_id=entry["id"],
                name=entry["id"],
                context_length=entry.get("context_length") or entry.get("max_model_len"),
                max_output_tokens=entry.get("max_output_length"),
                prompt_price=_price(entry, "prompt", "input"),
                completion_price=_price(entry, "completion", "output"),
            )
            for entry in catalogue["data"]
        ]


def _price(entry: dict[str, Any], name: str, older_name: str) -> int | None:
    """From `pricing.prompt`, or `price.input.usd` where an entry has only that."""
    dollars = (entry.get("pricing") or {}).get(name)
    if dollars is None:
        dollars = ((entry.get("price") or {}).get(older_name) or {}).get("usd")
    return price(dollars, tokens=MILLION)


def provider(settings: Settings) -> Provider:
    """Make it from the deployment's settings, which have its key."""
    own = settings.providers["chutes"]
    return Chutes(own.base_url or "https://llm.chutes.ai/v1", {"authorization": f"Bearer {own.key.reveal()}"})
