"""Trials: some credit with an end and a plan's limits for a while, once for each person."""

from __future__ import annotations

from typing import Any

from gateway import database
from gateway.money import number, show
from gateway.settings import settings

type Actor = dict[str, Any]


async def start(actor: Actor, user_id: int) -> dict[str, Any]:
    """Start a user's trial. Raises TrialNotAvailable, and TrialAlreadyUsed for whoever had one, by any account."""
    blocked = list(settings.trial_blocked_domains)
    return _shown(await database.call("start_trial", user_id=user_id, blocked=blocked, actor=actor))


async def status(user_id: int) -> dict[str, Any]:
    """What is left of a user's trial."""
    found = await database.call("trial_of", user_id=user_id)
    return _shown(found) if found else {"is_trial": False, "is_active": False, "is_expired": False}


async def terms(actor: Actor, changes: dict[str, Any] | None) -> dict[str, Any]:
    """What a trial gives, with these changes."""
    found = await database.call("trial_terms", changes=changes, actor=actor)
    return {"credits_usd": show(found["credit_nano"]), "days": found["days"]}


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    limits: dict[str, Any] = {}
    for name in ("requests", "tokens"):
        most = found[f"max_{name}"]
        limits |= {f"max_{name}": most, f"remaining_{name}": None if most is None else max(0, most - found[name])}
    return {
        "trial_id": found["trial_id"],
        "is_trial": True,
        "is_active": found["is_active"],
        "is_expired": not found["is_active"],
        "start_date": found["started_at"],
        "end_date": found["ends_at"],
        "credits": number(found["credit_nano"]),
        "remaining_credits": number(found["left_nano"] if found["is_active"] else 0),
        "total_trial_requests": found["requests"],
        "total_trial_tokens": found["tokens"],
        **limits,
    }
