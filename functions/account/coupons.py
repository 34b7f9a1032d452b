"""Coupons and referrals, as users have them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import StringConstraints

from gateway import coupons, referrals
from gateway.http.app import json_answer
from gateway.http.body import Body, Cursor, Limit, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

router = APIRouter(route_class=StrictRoute)
Reader = Annotated[Caller, Depends(require(Scope.ACCOUNT_READ))]
Writer = Annotated[Caller, Depends(require(Scope.ACCOUNT_WRITE))]
type Code = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{3,40}$")]


class Redemption(Body):
    code: Code


class Referral(Body):
    referral_code: Code


@router.post("/coupons/redeem")
async def redeem(body: Redemption, caller: Writer) -> Response:
    """Redeem a coupon: its credit is there at once, a bonus comes with the next top-up."""
    coupon = await coupons.redeem(caller.actor(), caller.user_id, body.code)
    message = "The bonus comes with your next top-up." if coupon["credits"] is None else "The credit was added."
    return json_answer({"success": True, "message": message, "coupon": coupon, **coupon})


@router.get("/coupons/available")
async def list_available(caller: Reader) -> Response:
    """List the coupons that are for this user alone and were not redeemed."""
    found = await coupons.available(caller.user_id)
    return json_answer({"success": True, "coupons": found, "count": len(found)})


@router.get("/coupons/history")
async def list_redeemed(caller: Reader, cursor: Cursor | None = None, limit: Limit = 50) -> Response:
    """List what the user redeemed, the last first."""
    page, following = await coupons.history(caller.user_id, cursor, limit)
    return json_answer({"success": True, "redemptions": page, "next_cursor": following})


@router.get("/referral/code")
@router.get("/referral/stats")
async def get_referral(caller: Reader) -> Response:
    """Show the user's own code, and what came of it."""
    return json_answer({"success": True, **await referrals.code(caller.user_id)})


@router.post("/referral/generate")
async def renew_referral(caller: Writer) -> Response:
    """Make another code; the one before is nobody's from here on."""
    return json_answer({"success": True, **await referrals.code(caller.user_id, renew=True)})


@router.post("/referral/validate")
async def validate_referral(body: Referral, caller: Reader) -> Response:
    """Say whether a code is somebody else's."""
    return json_answer({"success": True, "valid": await referrals.is_valid(caller.user_id, body.referral_code)})
