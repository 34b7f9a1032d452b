"""What costs money and is paid by Stripe."""

from __future__ import annotations

from fastapi import APIRouter

from billing import payments, plans, subscriptions

PARTS = (payments, plans, subscriptions)

router = APIRouter(routes=[route for part in PARTS for route in part.router.routes])
