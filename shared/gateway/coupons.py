"""Coupons: made by operators, redeemed by users, for a credit at once or a percentage of the next top-up."""

from __future__ import annotations

from typing import Any

from gateway import database
from gateway.money import number, show

type Actor = dict[str, Any]
type Coupon = dict[str, Any]


async def redeem(actor: Actor, user_id: int, code: str) -> Coupon:
    """Redeem a code, once. Raises CouponNotFound and its kin."""
    return shown(await database.call("redeem", user_id=user_id, code=code, actor=actor))


async def available(user_id: int) -> list[Coupon]:
    """The coupons that are a user's own and wait for him; everybody's are known by their codes."""
    return [shown(coupon) for coupon in await database.call("coupons_for", user_id=user_id)]


async def history(user_id: int, cursor: int | None, limit: int) -> tuple[list[Coupon], int | None]:
    """A page of what a user redeemed, the last first, and where the next one starts."""
    return _page(await database.call("redemptions_of", user_id=user_id, cursor=cursor, most=limit + 1), limit)


async def save(actor: Actor, coupon_id: int | None, changes: dict[str, Any]) -> Coupon:
    """Make a coupon, or change one; see api.save_coupon. Raises NotFound and Conflict."""
    return shown(await database.call("save_coupon", coupon_id=coupon_id, changes=changes, actor=actor))


async def listed(
    kind: str | None, *, is_active: bool | None, cursor: int | None, limit: int
) -> tuple[list[Coupon], int | None]:
    """A page of coupons, the last made first, and where the next one starts."""
    return _page(await database.call("coupons", kind=kind, is_active=is_active, cursor=cursor, most=limit + 1), limit)


async def get(coupon_id: int) -> Coupon:
    """One coupon, with what came of it. Raises NotFound."""
    return shown(await database.call("coupon", coupon_id=coupon_id))


async def overview() -> list[dict[str, Any]]:
    """All coupons, by kind."""
    return [shown(kind) for kind in await database.call("coupon_overview")]


def _page(found: list[Coupon], limit: int) -> tuple[list[Coupon], int | None]:
    page = found[:limit]
    return [shown(each) for each in page], page[-1]["id"] if len(found) > limit else None


def shown(found: Coupon) -> Coupon:
    """A coupon with dollars in the place of nano-dollars."""
    others = {name: value for name, value in found.items() if not name.endswith("_nano")}
    for name in (name for name in found if name.endswith("_nano")):
        nano = found[name]
        others[name.replace("_nano", "_usd")] = None if nano is None else show(nano)
        if name == "credit_nano":
            others["credits"] = None if nano is None else number(nano)
    return others
