"""What limits an account and its keys."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from gateway import rate_limits
from gateway.http.app import json_answer
from gateway.http.body import Body, Id, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

router = APIRouter(route_class=StrictRoute)
Reader = Annotated[Caller, Depends(require(Scope.ACCOUNT_READ))]
Writer = Annotated[Caller, Depends(require(Scope.KEYS_WRITE))]


class KeyLimits(Body):
    """A key's own limits, all of them: null, or not sent, is none besides the account's."""

    requests_per_minute: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    tokens_per_minute: Annotated[int, Field(ge=1, le=2**53)] | None = None
    concurrency: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None


@router.get("/user/rate-limits")
async def get_limits(caller: Reader) -> Response:
    """Show the account's limits, and those of the keys that have their own."""
    return json_answer({"success": True, **await rate_limits.of_user(caller.user_id)})


@router.get("/user/rate-limits/{id}")
async def get_key_limits(id: Id, caller: Reader) -> Response:  # noqa: A002 - the path's own name
    """Show the limits under which a key is."""
    return json_answer({"success": True, **await rate_limits.of_key(caller.user_id, id)})


@router.put("/user/rate-limits/{id}")
async def set_key_limits(id: Id, body: KeyLimits, caller: Writer) -> Response:  # noqa: A002
    """Set a key's own limits, which may only be lower than the account's."""
    found = await rate_limits.limit_key(caller.actor(), caller.user_id, id, body.model_dump())
    return json_answer({"success": True, **found})
