"""The catalogue: what models there are and what they cost, as OpenAI's clients and OpenRouter's read it."""

from __future__ import annotations

from typing import Any

from gateway import database
from gateway.errors import ModelNotFound
from gateway.money import show_price


async def models() -> list[dict[str, Any]]:
    """Every model with a price, by id. Raises DatabaseUnavailable."""
    return [_shown(model) for model in await database.call("models")]


async def model(model_id: str) -> dict[str, Any]:
    """One model. Raises ModelNotFound."""
    for listed in await models():
        if listed["id"] == model_id:
            return listed
    raise ModelNotFound(param="model")


def _shown(model: dict[str, Any]) -> dict[str, Any]:
    """A row of api.models as it is shown; prices are exact decimal strings of dollars a token or request."""
    return {
        "id": model["id"],
        "object": "model",
        "created": model["created"],
        "owned_by": model["id"].partition("/")[0],
        "name": model["name"],
        "description": model["description"],
        "context_length": model["context_length"],
        "max_output_tokens": model["max_output_tokens"],
        "architecture": {"input_modalities": model["input_modalities"], "output_modalities": ["text"]},
        "pricing": {
            "prompt": show_price(model["prompt_price"]),
            "completion": show_price(model["completion_price"]),
            "request": show_price(model["request_price"]),
        },
        "providers": model["providers"],
    }
