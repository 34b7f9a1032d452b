"""Accounts as their owners see them: amounts in dollars, exact."""

from __future__ import annotations

from typing import Any

from gateway import database
from gateway.keys import masked
from gateway.money import number, show


async def credits(user_id: int) -> dict[str, Any]:
    """What a user was granted, has used, and has left, held amounts apart."""
    found = await database.call("credits", user_id=user_id)
    available = found["credits_nano"] - found["held_nano"]
    return {
        "total_credits": number(found["granted_nano"]),
        "total_usage": number(found["used_nano"]),
        "balance_usd": show(found["credits_nano"]),
        "held_usd": show(found["held_nano"]),
        "available_usd": show(available),
    }


async def key_status(key_id: int) -> dict[str, Any]:
    """A key's limit and usage, over its life and this UTC day, week and month."""
    found = await database.call("key_status", key_id=key_id)
    limit = found["limit_nano"]
    return {
        "label": found["label"],
        "key": masked(found["environment"], found["public_id"], found["last_four"]),
        "limit": None if limit is None else number(limit),
        "limit_reset": found["limit_reset"],
        "limit_remaining": None if limit is None else number(max(0, limit - found["period_nano"])),
        "usage": number(found["usage_nano"]),
        "usage_daily": number(found["daily_nano"]),
        "usage_weekly": number(found["weekly_nano"]),
        "usage_monthly": number(found["monthly_nano"]),
        "byok_usage": number(0),
        "is_free_tier": found["is_free_tier"],
        "expires_at": found["expires_at"],
    }
