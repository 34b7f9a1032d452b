"""The audit log: who did what, and whether anybody has changed it since."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from gateway import audit
from gateway.http.app import json_answer
from gateway.http.body import MAX_ID, Cursor, Day, Limit, Line, Moment, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

router = APIRouter(route_class=StrictRoute)
Reader = Annotated[Caller, Depends(require(Scope.ADMIN_READ))]
type Among = Annotated[int, Query(ge=1, le=MAX_ID)]


@router.get("/admin/audit-logs")
async def list_entries(
    _caller: Reader,
    actor: Among | None = None,
    user_id: Among | None = None,
    action: Line | None = None,
    resource: Line | None = None,
    since: Annotated[Moment | None, Query(alias="from")] = None,
    until: Annotated[Moment | None, Query(alias="to")] = None,
    cursor: Cursor | None = None,
    limit: Limit = 50,
) -> Response:
    """List entries, the last first; `actor` is the id of the user who acted."""
    page, following = await audit.entries(
        actor_id=actor, user_id=user_id, actions=(action,) if action else None, resource=resource,
        since=since, until=until, cursor=cursor, limit=limit,
    )  # fmt: skip
    return json_answer({"success": True, "logs": page, "next_cursor": following})


@router.get("/admin/audit-logs/verify")
async def verify(
    _caller: Reader, day: Day | None = None, cursor: Annotated[int, Query(ge=0, le=MAX_ID)] = 0
) -> Response:
    """Compute the chain of a UTC day again, 20,000 entries a call: `cursor` is the last place that was seen."""
    asked = day or datetime.now(UTC).date()
    found = await audit.verify(asked, cursor)
    answer = {"day": asked, "is_intact": found["broken"] is None, "broken": found["broken"]}
    return json_answer({"success": True, **answer, "entries": found["entries"], "next_cursor": found["next_place"]})
