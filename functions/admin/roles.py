"""Roles: what each allows, and who has which."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response
from pydantic import Field

from gateway import administration, audit, roles
from gateway.http.app import json_answer
from gateway.http.body import MAX_ID, Body, Cursor, Id, Limit, Line, Name, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

router = APIRouter(route_class=StrictRoute)
Reader = Annotated[Caller, Depends(require(Scope.ADMIN_READ))]
Writer = Annotated[Caller, Depends(require(Scope.ADMIN_ROLES))]
type Role = Annotated[Name, Path()]
type Scopes = Annotated[list[Annotated[Scope, Field(strict=False)]], Field(min_length=1, max_length=len(Scope))]


class Assignment(Body):
    user_id: Annotated[int, Field(ge=1, le=MAX_ID)]
    role: Annotated[Name, Field(alias="new_role")]
    reason: Line


class Definition(Body):
    """What a role allows; a description that is not sent stays as it is."""

    permissions: Scopes
    description: Line | None = None


@router.get("/admin/roles")
async def list_roles(_caller: Reader) -> Response:
    """List the roles, and all permissions that there are."""
    return json_answer({"success": True, "roles": await roles.listed(), "permissions": list(Scope)})


@router.post("/admin/roles/update")
async def assign_role(body: Assignment, caller: Writer) -> Response:
    """Give a user another role."""
    changed = await roles.assign(caller.actor(), body.user_id, body.role, body.reason)
    return json_answer({"success": True, "user_id": body.user_id, **changed, "timestamp": datetime.now(UTC)})


@router.get("/admin/roles/audit/log")
async def list_changes(_caller: Reader, cursor: Cursor | None = None, limit: Limit = 50) -> Response:
    """List what was done to roles and to whom they were given, the last first."""
    page, following = await audit.entries(actions=roles.CHANGES, cursor=cursor, limit=limit)
    return json_answer({"success": True, "logs": page, "next_cursor": following})


@router.get("/admin/roles/list/{role}")
async def list_holders(role: Role, _caller: Reader, cursor: Cursor | None = None, limit: Limit = 50) -> Response:
    """List the users of a role, the last made first."""
    known = await roles.get(role)
    page, following = await administration.find(
        status=None, role=known["role"], username=None, email=None, cursor=cursor, limit=limit
    )
    return json_answer({"success": True, "role": role, "users": page, "next_cursor": following})


@router.get("/admin/roles/permissions/{role}")
async def get_role(role: Role, _caller: Reader) -> Response:
    """Show what a role allows."""
    return json_answer({"success": True, **await roles.get(role)})


@router.put("/admin/roles/permissions/{role}")
async def define_role(role: Role, body: Definition, caller: Writer) -> Response:
    """Make a role, or change what one allows: at once, for all who have it."""
    made = await roles.define(caller.actor(), role, sorted(set(body.permissions)), body.description)
    return json_answer({"success": True, **made})


@router.delete("/admin/roles/permissions/{role}")
async def delete_role(role: Role, caller: Writer) -> Response:
    """Delete a role that nobody has."""
    await roles.delete(caller.actor(), role)
    return json_answer({"success": True, "message": "The role was deleted."})


@router.get("/admin/roles/{id}")
async def get_role_of_user(id: Id, _caller: Reader) -> Response:  # noqa: A002 - the path's own name
    """Show a user's role and what it allows."""
    user = await administration.get(id)
    role = await roles.get(user["role"])
    return json_answer({"success": True, "user_id": id, "username": user["username"], **role})
