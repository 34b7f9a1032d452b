"""Plans: the limits that their users share, by minute, day and month, and the credits that a paid month grants."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from gateway import database
from gateway.money import NANO, number, show

MONTH = timedelta(days=30)

type Actor = dict[str, Any]


async def listed() -> list[dict[str, Any]]:
    """The plans that are offered, the cheapest first."""
    return [_shown(plan) for plan in await database.call("plans")]


async def get(plan_id: int) -> dict[str, Any]:
    """One plan. Raises NotFound."""
    return _shown(await database.call("plan", plan_id=plan_id))


async def of_user(user_id: int) -> dict[str, Any]:
    """A user's plan, the default one when he has none, with what is used of its limits."""
    found = await database.call("plan_of", user_id=user_id)
    own = {name: found[name] for name in ("status", "usage")}
    return {**_shown(found), **own, "start_date": found["started_at"], "end_date": found["ends_at"]}


async def assign(actor: Actor, user_id: int, plan_id: int, months: int) -> dict[str, Any]:
    """Give a user a plan for so many months of 30 days. Raises NotFound."""
    # of a day, so that a repetition means the same
    ends = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) + months * MONTH
    found = await database.call("assign_plan", user_id=user_id, plan_id=plan_id, ends_at=ends, actor=actor)
    return _shown(found)


async def save(actor: Actor, plan_id: int | None, changes: dict[str, Any]) -> dict[str, Any]:
    """Make a plan, or change one; see api.save_plan. Raises NotFound and Conflict."""
    return _shown(await database.call("save_plan", plan_id=plan_id, changes=changes, actor=actor))


def _shown(plan: dict[str, Any]) -> dict[str, Any]:
    price = number(plan["monthly_price_cents"] * NANO // 100)
    limits = (
        "requests_per_minute", "tokens_per_minute", "daily_request_limit", "monthly_request_limit",
        "daily_token_limit", "monthly_token_limit", "stored_bytes",
    )  # fmt: skip
    return {
        "id": plan["id"], "plan_name": plan["name"], "name": plan["name"], "plan_type": plan["plan_type"],
        "description": plan["description"], "monthly_price": price, "price_per_month": price,
        "monthly_price_cents": plan["monthly_price_cents"], "monthly_credits_usd": show(plan["allowance_nano"]),
        **{name: plan[name] for name in limits}, "max_concurrent_requests": plan["concurrency"],
        "features": plan["features"], "is_active": plan["is_active"], "is_default": plan["is_default"],
    }  # fmt: skip
