"""Limits that operators set for a user or a key."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import Field, model_validator

from gateway import administration, rate_limits
from gateway.errors import InvalidRequest
from gateway.http.app import json_answer
from gateway.http.body import MAX_ID, Body, Line, Moment, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

router = APIRouter(route_class=StrictRoute)


class Limits(Body):
    """All limits: one that is not sent is the plan's, or for a key none."""

    requests_per_minute: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1, le=2**53)] | None = None
    concurrency: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None


class OperatorLimits(Body):
    """Limits of one of `user_id`, `key_id` and `api_key`, for good or until `expires_at`."""

    user_id: Annotated[int, Field(ge=1, le=MAX_ID)] | None = None
    key_id: Annotated[int, Field(ge=1, le=MAX_ID)] | None = None
    api_key: Line | None = None
    rate_limits: Limits
    expires_at: Annotated[Moment | None, Field(strict=False)] = None

    @model_validator(mode="after")
    def _names_one(self) -> OperatorLimits:
        if sum(each is not None for each in (self.user_id, self.key_id, self.api_key)) != 1:
            raise ValueError("name one of user_id, key_id and api_key")
        return self


@router.post("/admin/rate-limits")
@router.post("/admin/limit")
async def set_limits(body: OperatorLimits, caller: Annotated[Caller, Depends(require(Scope.ADMIN_LIMITS))]) -> Response:
    """Set a user's limits in place of the plan's, or a key's, which its owner cannot lift."""
    now = datetime.now(UTC)
    if body.expires_at and body.expires_at <= now:
        raise InvalidRequest("expires_at must be in the future.", param="expires_at")
    if body.user_id:
        user_id, key_id = body.user_id, None
    else:
        held = await administration.holder(key_id=body.key_id, plaintext=body.api_key)
        user_id, key_id = held["user_id"], held["key_id"]
    found = await rate_limits.set_limits(
        caller.actor(), user_id, key_id, body.rate_limits.model_dump(), body.expires_at
    )
    who = {"user_id": user_id, "key_id": key_id, "effective_at": now, "expires_at": body.expires_at}
    return json_answer({"success": True, "message": "The limits were set.", "rate_limits": found, **who})
