"""Roles, built in and the operators' own: what they allow, and who has them. Nobody hands out what he lacks."""

from __future__ import annotations

from typing import Any

from gateway import database
from gateway.errors import InsufficientScope

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
    found: Role = await _change("define_role", f"role:{name}", actor, name=name, scopes=scopes, description=description)
    return found


async def delete(actor: Actor, name: str) -> None:
    """Delete a role that nobody has. Raises NotFound, InsufficientScope and Conflict."""
    await _change("delete_role", f"role:{name}", actor, name=name)


async def assign(actor: Actor, user_id: int, role: str, reason: str) -> dict[str, str]:
    """Give a user a role; {old_role, new_role}. Raises NotFound, InsufficientScope, and Conflict for the last admin."""
    found: dict[str, str] = await _change(
        "assign_role", f"user:{user_id}", actor, user_id=user_id, role=role, reason=reason
    )
    return found


async def _change(change: str, about: str, actor: Actor, /, **arguments: Any) -> Any:
    """Change a role; that somebody tried to hand out more than he has is an alert, apart from what was undone."""
    try:
        return await database.call(change, actor=actor, **arguments)
    except InsufficientScope:
        await database.call(
            "raise_alert", kind="refused_role_change", subject=actor["name"], user_id=actor["user_id"],
            key_id=actor["key_id"], detail={"change": change, "about": about, "request_id": actor["request_id"]},
        )  # fmt: skip
        raise
