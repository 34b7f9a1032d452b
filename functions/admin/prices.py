"""Prices that providers' lists name and that cannot be right, until an operator has decided."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response

from gateway import price_lists
from gateway.http.app import json_answer
from gateway.http.body import Body, Id, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

router = APIRouter(route_class=StrictRoute)


class Decision(Body):
    action: Literal["accept", "dismiss"]


@router.get("/admin/quarantined-prices")
async def list_quarantined(_caller: Annotated[Caller, Depends(require(Scope.ADMIN_READ))]) -> Response:
    """List the prices that nobody has decided on, in nano-dollars per million tokens."""
    found = await price_lists.quarantined()
    return json_answer({"success": True, "data": found, "count": len(found)})


@router.post("/admin/quarantined-prices/{id}")
async def decide(
    id: Id,  # noqa: A002 - the path's name for it
    body: Decision,
    caller: Annotated[Caller, Depends(require(Scope.ADMIN_CREDITS))],
) -> Response:
    """Sell at the listed price from now on, or stay with the one that is stored."""
    decided = await price_lists.decide(id, accept=body.action == "accept", actor=caller.actor())
    return json_answer({"success": True, "data": decided})
