"""The audit log as operators read it: its entries, whether somebody changed them, and the end of old ones."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

from gateway import database
from gateway.settings import settings

MOST_VERIFIED = 20_000
"""Entries that one call computes the chain of again."""
MOST_DAYS_PURGED = 30
"""UTC days that one run of the job deletes."""


async def entries(
    *, actor_id: int | None = None, user_id: int | None = None, actions: tuple[str, ...] | None = None,
    resource: str | None = None, since: datetime | None = None, until: datetime | None = None,
    cursor: int | None, limit: int,
) -> tuple[list[dict[str, Any]], int | None]:  # fmt: skip
    """A page of entries, the last first, and where the next one starts."""
    found = await database.call(
        "audit_logs", actor_id=actor_id, user_id=user_id, actions=list(actions) if actions else None, resource=resource,
        since=since, until=until, cursor=cursor, most=limit + 1,
    )  # fmt: skip
    page = found[:limit]
    return page, page[-1]["id"] if len(found) > limit else None


async def verify(day: date, place: int) -> dict[str, Any]:
    """Compute a UTC day's chain again from after an entry's place: what was found, and where to go on."""
    found: dict[str, Any] = await database.call("verify_audit", day=day, place=place, most=MOST_VERIFIED)
    return found


async def purge() -> dict[str, int]:
    """Delete what is older than AUDIT_RETENTION_DAYS, whole days, the oldest first."""
    days = entries = 0
    while days < MOST_DAYS_PURGED:
        gone = await database.call("purge_audit_day", days=settings.audit_retention_days)
        if gone["day"] is None:
            break
        days, entries = days + 1, entries + gone["entries"]
    return {"days": days, "entries": entries}
