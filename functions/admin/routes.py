"""The operator's routes, a module a noun."""

from __future__ import annotations

from fastapi import APIRouter

from admin import alerts, audit, credits, offers, prices, rate_limits, roles, usage, users

PARTS = (users, credits, offers, rate_limits, roles, usage, audit, alerts, prices)

router = APIRouter(routes=[route for part in PARTS for route in part.router.routes])
