"""Accounts: made, found, suspended and restored by operators."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import Field, StringConstraints

from gateway import administration
from gateway.administration import MOST_CREDIT_NANO, Account
from gateway.http.app import json_answer
from gateway.http.body import Body, Cursor, Id, Limit, Line, Name, StrictRoute, Usd
from gateway.http.caller import Caller, require
from gateway.scopes import Scope
from gateway.settings import settings

router = APIRouter(route_class=StrictRoute)
Reader = Annotated[Caller, Depends(require(Scope.ADMIN_READ))]
Writer = Annotated[Caller, Depends(require(Scope.ADMIN_USERS))]
type Address = Annotated[str, StringConstraints(max_length=254, pattern=r"^[^@\s\x00-\x1f]+@[^@\s\x00-\x1f]+$")]


class AccountCreation(Body):
    """An account; `auth_method` is taken from clients of the Gatewayz API, and says nothing here."""

    username: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_.-]{2,63}$")]
    email: Address
    role: Name = "user"
    environment_tag: Literal["live", "test", "staging", "development", "dev"] | None = None
    initial_credits: Annotated[Usd, Field(le=MOST_CREDIT_NANO)] = 0
    reason: Line = "made by an operator"
    auth_method: Line | None = None


class Reason(Body):
    reason: Line


@router.post("/admin/create", status_code=201)
@router.post("/create", status_code=201)
async def create_account(body: AccountCreation, caller: Writer) -> Response:
    """Make an account with its first key, which is shown this once."""
    tag = body.environment_tag or settings.key_environment
    wanted = Account(body.username, body.email, body.role, tag, body.initial_credits, body.reason)
    made = await administration.create(caller.actor(), wanted)
    answer = {"success": True, "message": "The account was made.", "subscription_status": "inactive"}
    return json_answer({**answer, **made, "timestamp": datetime.now(UTC)}, 201)


@router.get("/admin/users")
async def list_users(
    _caller: Reader,
    status: Literal["active", "suspended", "deleted"] | None = None,
    role: Name | None = None,
    username: Line | None = None,
    email: Line | None = None,
    cursor: Cursor | None = None,
    limit: Limit = 50,
) -> Response:
    """List users, the last made first."""
    page, following = await administration.find(
        status=status, role=role, username=username, email=email, cursor=cursor, limit=limit
    )
    return json_answer({"success": True, "data": page, "users": page, "next_cursor": following})


@router.get("/admin/users/{id}")
async def get_user(id: Id, _caller: Reader) -> Response:  # noqa: A002 - the path's own name
    """Show a user with balance, limits, sign-ins and keys."""
    return json_answer({"success": True, "user": await administration.get(id)})


@router.post("/admin/users/{id}/suspend")
async def suspend_user(id: Id, body: Reason, caller: Writer) -> Response:  # noqa: A002
    """Suspend a user: no key of his works from this moment."""
    return _changed("The user was suspended.", await administration.suspend(caller.actor(), id, body.reason))


@router.post("/admin/users/{id}/restore")
async def restore_user(id: Id, body: Reason, caller: Writer) -> Response:  # noqa: A002
    """Let a suspended user go on."""
    return _changed("The user was restored.", await administration.restore(caller.actor(), id, body.reason))


def _changed(message: str, user: dict[str, Any]) -> Response:
    return json_answer({"success": True, "message": message, "user": user})
