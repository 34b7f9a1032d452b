"""Balances, watched: what their owners are told of comes from here, and goes out by the outbox."""

from __future__ import annotations

from gateway import database

BATCH = 500
"""Users' ten minutes of spending that one call looks at, and users that one call reports to."""
MOST_BATCHES = 20
"""What one run looks at; the rest is the next one's."""


async def watch() -> dict[str, int]:
    """Look at the balances of users who have spent since the last run."""
    watched = 0
    for _ in range(MOST_BATCHES):
        found = await database.call("watch_balances", most=BATCH)
        watched += found["watched"]
        if found["watched"] < BATCH:
            break
    return {"watched": watched}


async def report() -> dict[str, int]:
    """Report the last week's usage to those who want it and were not told yet."""
    reported = 0
    for _ in range(MOST_BATCHES):
        found = await database.call("report_usage", most=BATCH)
        reported += found["reported"]
        if found["is_done"]:
            break
    return {"reported": reported}
