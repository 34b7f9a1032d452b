"""Limits per minute and at once: an account's, by its plan, and those that a key has besides."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from gateway import database
from gateway.overreach import guarded


async def of_user(user_id: int) -> dict[str, Any]:
    """A user's limits, and those of each key that has its own."""
    found: dict[str, Any] = await database.call("rate_limits", user_id=user_id)
    return found


async def of_key(user_id: int, key_id: int) -> dict[str, Any]:
    """The limits under which a key of a user's is. Raises NotFound."""
    found: dict[str, Any] = await database.call("key_limits", key_id=key_id, user_id=user_id)
    return found


async def limit_key(actor: dict[str, Any], user_id: int, key_id: int, limits: dict[str, int | None]) -> dict[str, Any]:
    """Set a key's own limits. Raises NotFound, InsufficientScope, and InvalidRequest for one above the account's."""
    about = f"key:{key_id}"
    found: dict[str, Any] = await guarded("limit_key", about, actor, key_id=key_id, user_id=user_id, limits=limits)
    return found


async def set_limits(
    actor: dict[str, Any], user_id: int, key_id: int | None, limits: dict[str, int | None], expires_at: datetime | None
) -> dict[str, Any]:
    """Set, as an operator, a user's limits in place of the plan's, or a key's own. Raises NotFound."""
    found: dict[str, Any] = await database.call(
        "set_limits", user_id=user_id, key_id=key_id, limits=limits, expires_at=expires_at, actor=actor
    )
    return found
