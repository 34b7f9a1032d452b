"""Everything that a user sees and does about the account."""

from __future__ import annotations

from fastapi import APIRouter

from account import activity, balance, coupons, keys, profile, provider_keys, rate_limits, unsubscribe, webhooks

PARTS = (activity, balance, coupons, keys, rate_limits, provider_keys, profile, unsubscribe, webhooks)

router = APIRouter(routes=[route for part in PARTS for route in part.router.routes])
