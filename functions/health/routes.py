"""The health routes. Public; they call no provider and tell nothing about users."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from itertools import count
from typing import Any

from fastapi import APIRouter, Response

from gateway import VERSION, database
from gateway.errors import DatabaseUnavailable

router = APIRouter()
_started = time.monotonic()
_pings = count(1)


@router.get("/health")
async def health(response: Response) -> dict[str, Any]:
    """Say whether requests can be served: the database answers, or 503."""
    try:
        await database.call("health")
        status, reached = "healthy", "connected"
    except DatabaseUnavailable:
        status, reached, response.status_code = "unhealthy", "unreachable", 503
    return {"status": status, "version": VERSION, "timestamp": _now(), "database": reached}


@router.get("/ping")
async def ping() -> dict[str, Any]:
    """Answer without asking anything; `count` and `uptime` (seconds) are this environment's own."""
    return {
        "status": "pong",
        "message": "pong",
        "count": next(_pings),
        "timestamp": _now(),
        "uptime": round(time.monotonic() - _started, 3),
        "version": VERSION,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
