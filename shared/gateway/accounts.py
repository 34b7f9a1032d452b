"""An account as its owner has it: profile, preferences, and everything that is kept of it."""

from __future__ import annotations

from typing import Any

from gateway import database, unsubscribe
from gateway.money import show

MOST_EXPORTED = 5_000
"""Rows of each kind that one export holds; the lists have the rest."""

type Actor = dict[str, Any]


async def profile(user_id: int) -> dict[str, Any]:
    """A user's profile. Raises NotFound."""
    found: dict[str, Any] = await database.call("profile", user_id=user_id)
    return found


async def change_profile(actor: Actor, user_id: int, changes: dict[str, str]) -> dict[str, Any]:
    """Change what is given of {username, display_name}. Raises Conflict for a name that is taken."""
    found: dict[str, Any] = await database.call("change_profile", user_id=user_id, changes=changes, actor=actor)
    return found


async def preferences(user_id: int) -> dict[str, Any]:
    """What a user wants to be told of."""
    return _shown(await database.call("preferences", user_id=user_id))


async def set_preferences(actor: Actor, user_id: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Change what is given of a user's preferences; returns all of them."""
    return _shown(await database.call("set_preferences", user_id=user_id, changes=changes, actor=actor))


async def turn_off(token: str, ip: str | None, request_id: str) -> str:
    """Turn off what the link of a mail names, and say what that is. Again it changes nothing. Raises InvalidRequest."""
    user_id, preference = unsubscribe.read(token)
    actor = {"name": f"user:{user_id}", "user_id": user_id, "ip": ip, "request_id": request_id}
    await database.call("unsubscribe", user_id=user_id, preference=preference, actor=actor)
    return unsubscribe.PREFERENCES[preference]


async def export(user_id: int) -> dict[str, Any]:
    """Everything that is kept of a user, the newest 5,000 rows of what grows without bound; amounts in nano-dollars."""
    found: dict[str, Any] = await database.call("export_user", user_id=user_id, most=MOST_EXPORTED)
    return found


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    wanted = {name: value for name, value in found.items() if isinstance(value, bool)}
    return {**wanted, "low_balance_usd": show(found["low_balance_nano"])}
