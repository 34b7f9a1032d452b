"""Changes that give more than a key has are refused, and who tries them is reported to operators and owner."""

from __future__ import annotations

from typing import Any

from gateway import database
from gateway.errors import InsufficientScope

ROLES = "refused_role_change"
KEYS = "refused_key_change"
"""The kinds of alerts."""

type Actor = dict[str, Any]


async def guarded(change: str, about: str, actor: Actor, /, **arguments: Any) -> Any:
    """Run the database function `change` of keys and sessions. Raises what it raises; InsufficientScope is reported."""
    return await _run(KEYS, f"key:{actor.get('key_id')}", change, about, actor, arguments)


async def guarded_role(change: str, about: str, actor: Actor, /, **arguments: Any) -> Any:
    """Run the database function `change` of roles, as `guarded` does."""
    return await _run(ROLES, actor["name"], change, about, actor, arguments)


async def _run(kind: str, subject: str, change: str, about: str, actor: Actor, arguments: dict[str, Any]) -> Any:
    try:
        return await database.call(change, actor=actor, **arguments)
    except InsufficientScope as refusal:
        if type(refusal) is InsufficientScope:  # and not a key that was paused, or a role that was taken, meanwhile
            told = {"kind": kind, "subject": subject, "change": change, "about": about}
            await database.call("report_overreach", **told, actor=actor)  # apart from the change, which was undone
        raise
