"""The ledger, watched by jobs: requests that were never settled, and books that are not in order. Each has an alarm."""

from __future__ import annotations

from typing import Any

from gateway import database, telemetry

MOST_USERS = 2000
MOST_ROWS = 5000


async def expire_holds() -> dict[str, Any]:
    """End the holds whose time is over; {expired}. One that expires is of a request whose settlement did not come: its
    process died, or the settlement waits in the queue and will be booked all the same.
    """
    swept: dict[str, Any] = await database.call("expire_holds")
    level = "WARNING" if swept["expired"] else "INFO"
    telemetry.log("holds_swept", level=level, metrics={"UnsettledHolds": swept["expired"]}, **swept)
    return swept


async def check() -> dict[str, Any]:
    """Check the books of the next users in turn (api.check_ledger); {checked, violations, users}."""
    found: dict[str, Any] = await database.call("check_ledger", most=MOST_USERS, most_rows=MOST_ROWS)
    level = "CRITICAL" if found["violations"] else "INFO"
    telemetry.log("ledger_checked", level=level, metrics={"LedgerViolations": found["violations"]}, **found)
    return found
