"""The operator's routes, a module a noun."""

from __future__ import annotations

from fastapi import APIRouter

from admin import alerts, audit, credits, rate_limits, roles, usage, users

router = APIRouter()
for part in (users, credits, rate_limits, roles, usage, audit, alerts):
    router.include_router(part.router)
