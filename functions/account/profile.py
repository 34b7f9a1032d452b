"""Who the account is, what it wants to be told of, and all that is kept of it."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Response
from pydantic import Field, StringConstraints

from gateway import accounts
from gateway.errors import InvalidRequest
from gateway.http.app import json_answer
from gateway.http.body import Body, Line, StrictRoute, Usd
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

router = APIRouter(route_class=StrictRoute)
Reader = Annotated[Caller, Depends(require(Scope.ACCOUNT_READ))]
Writer = Annotated[Caller, Depends(require(Scope.ACCOUNT_WRITE))]


class Profile(Body):
    username: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{2,63}$")] | None = None
    display_name: Line | None = None


class Preferences(Body):
    low_balance: bool | None = None
    low_balance_usd: Annotated[Usd, Field(le=10**15)] | None = None
    key_events: bool | None = None
    usage_report: bool | None = None
    product_news: bool | None = None


def _given(body: Body) -> dict[str, Any]:
    """What was sent; null is no value of any of it. Raises InvalidRequest."""
    given = body.model_dump(exclude_unset=True)
    for name, value in given.items():
        if value is None:
            raise InvalidRequest(f"{name} cannot be null.", param=name)
    return given


@router.get("/user/profile")
async def get_profile(caller: Reader) -> Response:
    """Show the account's profile."""
    found = await accounts.profile(caller.user_id)
    return json_answer({"success": True, "profile": found, **found})


@router.put("/user/profile")
async def change_profile(body: Profile, caller: Writer) -> Response:
    """Change the user name or the name that is shown; the address comes from the sign-in."""
    found = await accounts.change_profile(caller.actor(), caller.user_id, _given(body))
    return json_answer({"success": True, "profile": found, **found})


@router.get("/user/notifications/preferences")
async def get_preferences(caller: Reader) -> Response:
    """Show what the user is told of."""
    return json_answer({"success": True, "preferences": await accounts.preferences(caller.user_id)})


@router.put("/user/notifications/preferences")
async def set_preferences(body: Preferences, caller: Writer) -> Response:
    """Choose what to be told of."""
    changes = _given(body)
    if "low_balance_usd" in changes:
        changes["low_balance_nano"] = changes.pop("low_balance_usd")
    found = await accounts.set_preferences(caller.actor(), caller.user_id, changes)
    return json_answer({"success": True, "preferences": found})


@router.get("/user/export")
async def export(caller: Reader, cursor: Annotated[str | None, Query(max_length=100)] = None) -> Response:
    """Hand out everything that is kept of the account (GDPR, article 20), by parts; amounts in nano-dollars.

    The next part is the one with `cursor` set to `next_cursor`, until that is null.
    """
    return json_answer({"success": True, **await accounts.export(caller.user_id, cursor)})
