"""OpenRouter (https://openrouter.ai/docs/api-reference/overview)."""

from __future__ import annotations

from typing import Any

from gateway.money import MILLION, NANO, parse
from gateway.providers.base import Listing, Provider
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
                prompt_price=_price(entry["pricing"].get("prompt")),
                completion_price=_price(entry["pricing"].get("completion")),
            )
            for entry in catalogue["data"]
        ]


def _price(dollars_per_token: str | None) -> int | None:
    """OpenRouter's decimal strings of dollars a token; -1 stands for a price that varies."""
    if dollars_per_token is None or dollars_per_token.startswith("-"):
        return None
    return parse(dollars_per_token, scale=NANO * MILLION)


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
