"""Referrals: a user's own code, and what came of it; never who it was."""

from __future__ import annotations

import secrets
from typing import Any

from gateway import database
from gateway.money import number, show

ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZ"
"""Without what looks like something else."""

type Actor = dict[str, Any]


async def code(user_id: int, *, renew: bool = False) -> dict[str, Any]:
    """A user's own code with its figures; made when it is first asked for, and another one when it is to be renewed."""
    fresh = "".join(secrets.choice(ALPHABET) for _ in range(8))
    found = await database.call("referral_code", user_id=user_id, code=fresh, renew=renew)
    terms = found["terms"]
    return {
        "referral_code": found["code"],
        "total_referrals": found["referred"],
        "rewarded_referrals": found["rewarded"],
        "remaining_rewards": max(0, terms["most_rewards"] - found["rewards"]),
        "total_earned": number(found["earned_nano"]),
        "total_earned_usd": show(found["earned_nano"]),
        "reward_usd": show(terms["referrer_nano"]),
        "friend_reward_usd": show(terms["referee_nano"]),
        "least_payment_cents": terms["least_cents"],
    }


async def is_valid(user_id: int, given: str) -> bool:
    """Whether a code is somebody else's."""
    found = await database.call("is_referral_code", code=given, user_id=user_id)
    return bool(found["is_valid"])


async def terms(actor: Actor, changes: dict[str, Any] | None) -> dict[str, Any]:
    """What a referral gives, with these changes."""
    found = await database.call("referral_terms", changes=changes, actor=actor)
    return {
        "referrer_usd": show(found["referrer_nano"]),
        "referee_usd": show(found["referee_nano"]),
        "least_cents": found["least_cents"],
        "most_rewards": found["most_rewards"],
    }
