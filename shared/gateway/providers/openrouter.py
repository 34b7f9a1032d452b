"""OpenRouter (https://openrouter.ai/docs/api-reference/overview)."""

from __future__ import annotations

from typing import Any

from gateway.providers.base import Listing, Provider, price
from gateway.settings import Settings


class OpenRouter(Provider):
    name = "openrouter"

    def adapt(self, body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "usage": {"include": True}}  # asks for the cost beside the tokens

    def listings(self, catalogue: Any) -> list[Listing]:
        return [
            Listing(
                upstream_id=entry["id"],
                name=entry["name"],
                context_length=entry.get("context_length"),
                max_output_tokens=(entry.get("top_provider") or {}).get("max_completion_tokens"),
                prompt_price=price(entry["pricing"].get("prompt"), tokens=1),
                completion_price=price(entry["pricing"].get("completion"), tokens=1),
            )
            for entry in catalogue["data"]
        ]


def provider(settings: Settings) -> Provider:
    """Make it from the deployment's settings, which have its key."""
    own = settings.providers["openrouter"]
    return OpenRouter(
        own.base_url or "https://openrouter.ai/api/v1",
        {
            "authorization": f"Bearer {own.key.reveal()}",
            "http-referer": settings.public_url,
            "x-title": "Gatewayz",
        },
    )
