"""Roles, built in and the operators' own: what they allow, and who has them. Nobody hands out what he lacks."""

from __future__ import annotations

from typing import Any

from gateway import database
from gateway.overreach import guarded_role

CHANGES = ("role.assigned", "role.defined", "role.deleted")
"""The actions of the audit log that are about roles."""

type Actor = dict[str, Any]
type Role = dict[str, Any]


async def listed() -> list[Role]:
    """All roles, built-in ones first."""
    found: list[Role] = await database.call("roles")
    return found


async def get(name: str) -> Role:
    """One role and its scopes. Raises NotFound."""
    found: Role = await database.call("role", name=name)
    return found


async def define(actor: Actor, name: str, scopes: list[str], description: str | None) -> Role:
    """Make a role, or change one. Raises InsufficientScope, and Conflict for a built-in one."""
    found: Role = await guarded_role(
        "define_role", f"role:{name}", actor, name=name, scopes=scopes, description=description
    )
    return found


async def delete(actor: Actor, name: str) -> None:
    """Delete a role that nobody has. Raises NotFound, InsufficientScope and Conflict."""
    await guarded_role("delete_role", f"role:{name}", actor, name=name)


async def assign(actor: Actor, user_id: int, role: str, reason: str) -> dict[str, str]:
    """Give a user a role; {old_role, new_role}. Raises NotFound, InsufficientScope, and Conflict for the last admin."""
    found: dict[str, str] = await guarded_role(
        "assign_role", f"user:{user_id}", actor, user_id=user_id, role=role, reason=reason
    )
    return found
