"""What costs money and is paid by Stripe, and the end of an account, which ends there first."""

from __future__ import annotations

from fastapi import APIRouter

from billing import closing, payments, plans, subscriptions

PARTS = (payments, plans, subscriptions, closing)

router = APIRouter(routes=[route for part in PARTS for route in part.router.routes])
