"""The catalogue's routes. Public: what is sold and for how much is no secret."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter

from gateway import catalog

router = APIRouter()


@router.get("/v1/models")
async def list_models() -> dict[str, Any]:
    """List every model that can be used, in OpenAI's shape with OpenRouter's members."""
    return {"object": "list", "data": await catalog.models()}


@router.get("/v1/models/{model:path}")
async def get_model(model: str) -> dict[str, Any]:
    """Show one model."""
    return await catalog.model(model)
