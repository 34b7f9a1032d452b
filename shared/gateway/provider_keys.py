"""Users' own keys of providers: requests that go through one take no credits, and what they used is recorded."""

from __future__ import annotations

from typing import Any

from gateway import database, sealing


async def put(actor: dict[str, Any], user_id: int, provider: str, plaintext: str) -> dict[str, Any]:
    """Store a key, sealed, in place of the one there was. Raises InternalError where nothing can be sealed."""
    found: dict[str, Any] = await database.call(
        "put_provider_key", user_id=user_id, provider=provider, sealed=sealing.seal(plaintext),
        last_four=plaintext[-4:], actor=actor,
    )  # fmt: skip
    return found


async def listed(user_id: int) -> list[dict[str, Any]]:
    """A user's stored keys: the provider, the last four characters, and when it was stored."""
    found: list[dict[str, Any]] = await database.call("provider_keys", user_id=user_id)
    return found


async def delete(actor: dict[str, Any], user_id: int, provider: str) -> None:
    """Delete a key. Raises NotFound."""
    await database.call("delete_provider_key", user_id=user_id, provider=provider, actor=actor)
