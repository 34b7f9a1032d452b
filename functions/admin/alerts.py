"""Alerts: what looks like an attack or a leaked key, until somebody has looked at it."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response

from gateway import alerts
from gateway.http.app import json_answer
from gateway.http.body import MAX_ID, Body, Cursor, Id, Limit, Line, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

router = APIRouter(route_class=StrictRoute)
type Kind = Literal[
    "refusals_burst",
    "unusual_network",
    "unusual_spend",
    "refused_role_change",
    "refused_key_change",
    "unwanted_subscription",
    "payment_disagrees",
    "payment_unknown",
    "price_quarantined",
]


class Resolution(Body):
    """What an alert turned out to be."""

    note: Line


@router.get("/admin/alerts")
async def list_alerts(
    _caller: Annotated[Caller, Depends(require(Scope.ADMIN_READ))],
    kind: Kind | None = None,
    user_id: Annotated[int, Query(ge=1, le=MAX_ID)] | None = None,
    status: Literal["open", "resolved"] | None = None,
    cursor: Cursor | None = None,
    limit: Limit = 50,
) -> Response:
    """Alerts, the last first."""
    is_open = None if status is None else status == "open"
    page, following = await alerts.alerts(kind, user_id, is_open=is_open, cursor=cursor, limit=limit)
    return json_answer({"success": True, "data": page, "alerts": page, "next_cursor": following})


@router.post("/admin/alerts/{id}/resolve")
async def resolve_alert(
    id: Id,  # noqa: A002 - the path's name for it
    body: Resolution,
    caller: Annotated[Caller, Depends(require(Scope.ADMIN_ALERTS))],
) -> Response:
    """Resolve an alert; one that was resolved before stays as it was."""
    return json_answer({"success": True, "alert": await alerts.resolve(id, body.note, caller.actor())})
