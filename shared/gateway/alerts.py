"""Alerts: what looks like an attack or a leaked key, found by a job, told once, resolved by an operator."""

from __future__ import annotations

from typing import Any

from gateway import database
from gateway.settings import settings


async def raise_all() -> Any:
    """Look for what is out of the ordinary, open alerts, and pause their keys if PAUSE_KEYS_ON_ALERT says so."""
    return await database.call("raise_alerts", pause=settings.alerts.pause_keys)


async def audit_refusals() -> Any:
    """Sum up in the audit log what was refused, each hour that is over once."""
    return await database.call("audit_refusals")


async def alerts(
    kind: str | None, user_id: int | None, *, is_open: bool | None, cursor: int | None, limit: int
) -> tuple[list[dict[str, Any]], int | None]:
    """A page of alerts, the last first, and where the next one starts."""
    found = await database.call("alerts", kind=kind, user_id=user_id, is_open=is_open, cursor=cursor, most=limit + 1)
    page = found[:limit]
    return page, page[-1]["id"] if len(found) > limit else None


async def resolve(alert_id: int, note: str, actor: dict[str, Any]) -> dict[str, Any]:
    """Resolve an alert and say what it was. Raises NotFound."""
    resolved: dict[str, Any] = await database.call("resolve_alert", alert_id=alert_id, note=note, actor=actor)
    return resolved
