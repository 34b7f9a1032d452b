"""The plans that are offered."""

from __future__ import annotations

from fastapi import APIRouter, Response

from gateway import plans
from gateway.http.app import json_answer
from gateway.http.body import Id, StrictRoute

router = APIRouter(route_class=StrictRoute)


@router.get("/plans")
async def list_plans() -> Response:
    """List the plans that are offered, the cheapest first."""
    found = await plans.listed()
    return json_answer({"success": True, "data": found, "plans": found, "count": len(found)})


@router.get("/plans/{id}")
async def get_plan(id: Id) -> Response:  # noqa: A002 - the path's own name
    """Show one plan."""
    return json_answer({"success": True, "plan": await plans.get(id)})
