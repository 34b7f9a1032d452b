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


async def balance(user_id: int) -> dict[str, Any]:
    """A user's balance with its grants, in the order in which they are spent, and what open requests hold of it."""
    found = await database.call("balance", user_id=user_id)
    credits, held, frozen = found["credits_nano"], found["held_nano"], found["frozen_nano"]
    return {
        "user_id": user_id,
        "status": found["status"],
        "credits": number(credits),
        "credits_usd": show(credits),
        "held_usd": show(held),
        "frozen_usd": show(frozen),
        "available_usd": show(credits - held - frozen),
        "grants": [
            {
                "id": grant["id"],
                "kind": grant["kind"],
                "amount_usd": show(grant["amount_nano"]),
                "remaining_usd": show(grant["left_nano"]),
                "is_frozen": grant["is_frozen"],
                "expires_at": grant["expires_at"],
                "created_at": grant["created_at"],
            }
            for grant in found["grants"]
        ],
        "open_requests": found["open_holds"],
        "holds": [
            {
                "id": hold["id"],
                "key_id": hold["key_id"],
                "held_usd": show(hold["bound_nano"]),
                "created_at": hold["created_at"],
                "expires_at": hold["expires_at"],
            }
            for hold in found["holds"]
        ],
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
        "byok_usage": number(found["byok_nano"]),
        "is_free_tier": found["is_free_tier"],
        "expires_at": found["expires_at"],
    }
