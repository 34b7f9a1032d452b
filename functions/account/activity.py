"""What the account did, and what was changed of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response

from gateway import activity
from gateway.errors import InvalidRequest
from gateway.http.app import json_answer
from gateway.http.body import Cursor, Day, KeyId, Limit, Line, Moment, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

MOST_DAYS = 366

router = APIRouter(route_class=StrictRoute)
Reader = Annotated[Caller, Depends(require(Scope.ACCOUNT_READ))]
type From = Annotated[Moment | None, Query(alias="from")]
type To = Annotated[Moment | None, Query(alias="to")]


@router.get("/user/activity/log")
async def get_log(
    caller: Reader,
    since: From = None,
    until: To = None,
    model: Line | None = None,
    provider: Line | None = None,
    key_id: KeyId | None = None,
    limit: Limit = 50,
    cursor: Annotated[str | None, Query(max_length=100)] = None,
) -> Response:
    """List the account's requests, the newest first; the last 30 days unless told otherwise."""
    end = until or datetime.now(UTC) + timedelta(minutes=1)
    start = since or end - timedelta(days=30)
    page, following = await activity.requests(
        caller.user_id, start, end, cursor=cursor, most=limit, key_id=key_id, model=model, provider=provider
    )
    return json_answer({"success": True, "activities": page, "count": len(page), "next_cursor": following})


@router.get("/v1/generation")
async def get_generation(caller: Reader, given: Annotated[Line, Query(alias="id")]) -> Response:
    """Show one request of the account's, with what the ledger has of it."""
    return json_answer({"data": await activity.generation(caller.user_id, given)})


@router.get("/user/activity/stats")
async def get_stats(
    caller: Reader,
    start_date: Annotated[Day | None, Query(alias="from")] = None,
    end_date: Annotated[Day | None, Query(alias="to")] = None,
) -> Response:
    """Sum the account's requests up by UTC day; the last 30 days unless told otherwise."""
    until = end_date or datetime.now(UTC).date()
    since = start_date or until - timedelta(days=29)
    if not 0 <= (until - since).days < MOST_DAYS:
        raise InvalidRequest("The dates must be in order, and a year apart at most.", param="from")
    return json_answer(
        {"success": True, "from": since, "to": until, **await activity.stats(caller.user_id, since, until)}
    )


@router.get("/user/api-keys/audit-logs")
async def get_changes(
    caller: Reader,
    key_id: KeyId | None = None,
    action: Line | None = None,
    start_date: Moment | None = None,
    end_date: Moment | None = None,
    limit: Limit = 50,
    cursor: Cursor | None = None,
) -> Response:
    """List what was changed of the account and its keys, the newest first."""
    page = await activity.changes(
        caller.user_id, cursor=cursor, most=limit, key_id=key_id, action=action, since=start_date, until=end_date
    )
    following = page[-1]["id"] if len(page) == limit else None
    return json_answer({"success": True, "logs": page, "count": len(page), "next_cursor": following})
