"""What all users used, and how the gateway is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from gateway import usage
from gateway.http.app import json_answer
from gateway.http.body import MAX_ID, MAX_PAGE, Day, Line, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

DEFAULT_DAYS = 30
MOST_HOURS = 168

router = APIRouter(route_class=StrictRoute)
Operator = Annotated[Caller, Depends(require(Scope.ADMIN_READ))]
type Among = Annotated[int, Field(ge=1, le=MAX_ID)]


class UsageQuery(BaseModel):
    """What is asked for: rows by `group_by`, of the UTC days `from` to `to`, both with them."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    group_by: Literal["user", "key", "model", "provider", "day"] = "day"
    first: Annotated[Day | None, Field(alias="from")] = None
    last: Annotated[Day | None, Field(alias="to")] = None
    user_id: Among | None = None
    key_id: Among | None = None
    model: Line | None = None
    provider: Line | None = None
    cursor: Line | None = None
    limit: Annotated[int, Field(ge=1, le=MAX_PAGE)] = 50
    form: Annotated[Literal["json", "csv"], Field(alias="format")] = "json"

    def question(self) -> usage.Question:
        """The last 30 days, where no others are named."""
        last = self.last or datetime.now(UTC).date()
        first = self.first or last - timedelta(days=DEFAULT_DAYS - 1)
        among = (self.user_id, self.key_id, self.model, self.provider)
        return usage.Question(self.group_by, first, last, *among, self.cursor, self.limit)


@router.get("/admin/usage")
async def show_usage(_caller: Operator, query: Annotated[UsageQuery, Query()]) -> Response:
    """Requests, tokens, money, errors and times by user, key, model, provider or day; as JSON or CSV."""
    question = query.question()
    found = await usage.report(question)
    if query.form == "json":
        return json_answer({"success": True, **found})
    name = f"usage-by-{question.group_by}-{question.first}-{question.last}.csv"
    headers = {"content-disposition": f'attachment; filename="{name}"'}
    if found["next_cursor"]:
        headers["x-next-cursor"] = quote(found["next_cursor"])
    return Response(usage.as_csv(found), headers=headers, media_type="text/csv; charset=utf-8")


@router.get("/admin/monitor")
async def monitor(_caller: Operator, window: Annotated[int, Query(ge=1, le=MOST_HOURS)] = 1) -> Response:
    """How things are: money held, what waits, what was refused, and what providers did in the last `window` hours."""
    return json_answer({"success": True, **await usage.monitor(window)})
