"""What all users used together, for the operator: sums that a job keeps, never the records themselves."""

from __future__ import annotations

import time
from datetime import UTC, date, datetime
from typing import Any

import msgspec

from gateway import database, spreadsheet
from gateway.errors import InvalidRequest
from gateway.money import number, show

BATCH = 5_000
"""Usage records that one transaction of the roll-up adds up."""
MOST_BATCHES = 20
"""And transactions of one run; what is left waits a minute for the next."""
MOST_DAYS = 92
"""UTC days that one question may be about."""
TROUBLE = ("outbox_failed", "stripe_events_waiting", "payments_disagreeing")
"""Numbers that are to be looked at when they are not 0."""
BY_OFFER, BY_CUSTOMER = ("model", "provider", "day"), ("user", "key")
COUNTS = (
    "requests",
    "errors",
    "byok_requests",
    "prompt_tokens",
    "completion_tokens",
    "cached_tokens",
    "reasoning_tokens",
)


class Question(msgspec.Struct, frozen=True):
    """Usage of the UTC days `first` to `last`, both with them, as rows by `group_by`; after the row named `cursor`."""

    group_by: str
    first: date
    last: date
    user_id: int | None = None
    key_id: int | None = None
    model: str | None = None
    provider: str | None = None
    cursor: str | None = None
    limit: int = 50


async def roll_up() -> dict[str, int]:
    """Add up the usage records that were not yet, each once; says how many there were."""
    counted = 0
    for _ in range(MOST_BATCHES):
        batch = await database.call("roll_up_usage", most=BATCH)
        counted += batch["counted"]
        if batch["is_done"]:
            break
    return {"counted": counted}


async def report(question: Question) -> dict[str, Any]:
    """The rows and totals that were asked for. Raises InvalidRequest for what the sums cannot tell."""
    if question.last < question.first or (question.last - question.first).days >= MOST_DAYS:
        raise InvalidRequest(f"The range must be 1 to {MOST_DAYS} days.", param="from")
    is_by_customer = question.group_by in BY_CUSTOMER or question.user_id or question.key_id
    found = await (_of_customers(question) if is_by_customer else _of_offers(question))
    rows = [_row(question.group_by, row) for row in found["rows"]]
    more = len(rows) > question.limit
    page = rows[: question.limit]
    return {
        "group_by": question.group_by,
        "from": question.first,
        "to": question.last,
        "data": page,
        "totals": _sums(found["totals"]),
        "next_cursor": str(page[-1][question.group_by]) if more else None,
    }


async def _of_offers(question: Question) -> Any:
    return await database.call(
        "usage_of_offers",
        group_by=question.group_by,
        first=question.first,
        last=question.last,
        model=question.model,
        provider=question.provider,
        cursor=question.cursor,
        most=question.limit + 1,
    )


async def _of_customers(question: Question) -> Any:
    if question.group_by not in BY_CUSTOMER:
        raise InvalidRequest("Usage of one user or key is kept by user and key.", param="group_by")
    if question.model or question.provider:
        raise InvalidRequest("Usage of users and keys is not kept by model or provider.", param="model")
    if question.cursor and not (question.cursor.isascii() and question.cursor.isdigit() and len(question.cursor) < 19):
        raise InvalidRequest("The cursor is not one of this list.", param="cursor")
    return await database.call(
        "usage_of_customers",
        group_by=question.group_by,
        first=question.first,
        last=question.last,
        user_id=question.user_id,
        key_id=question.key_id,
        cursor=int(question.cursor) if question.cursor else None,
        most=question.limit + 1,
    )


def _sums(found: dict[str, Any]) -> dict[str, Any]:
    counts = {name: int(found[name] or 0) for name in COUNTS}
    revenue, upstream = int(found["cost_nano"] or 0), int(found["upstream_cost_nano"] or 0)
    return {
        **counts,
        "error_rate": _rate(counts["errors"], counts["requests"]),
        "revenue": number(revenue),
        "revenue_usd": show(revenue),
        "upstream_cost_usd": show(upstream),
        "margin_usd": show(revenue - upstream),
    }


def _row(group_by: str, found: dict[str, Any]) -> dict[str, Any]:
    """A row as it is shown: what it is about, sums, times in milliseconds; errors by type where they are kept."""
    label = {"label": found["label"]} if "label" in found else {}
    types = {"error_types": found["error_types"]} if "error_types" in found else {}
    first_byte = {f"first_byte_{name}": value for name, value in found["first_byte"].items()}
    return {group_by: found["name"], **label, **_sums(found), **found["latency"], **first_byte, **types}


def as_csv(report: dict[str, Any]) -> str:
    """The rows of a report as CSV."""
    # an amount is there twice: as a number, and as the exact decimal that CSV has anyway
    rows = [{name: value for name, value in row.items() if name != "revenue"} for row in report["data"]]
    return spreadsheet.csv_of(rows[0], (row.values() for row in rows)) if rows else ""


async def monitor(hours: int) -> dict[str, Any]:
    """How the gateway is at this moment, with what was served in the last `hours` hours."""
    began = time.monotonic()
    found = await database.call("monitor", hours=hours)
    answered_ms = round(1000 * (time.monotonic() - began))
    until = found["rolled_up_until"]
    requests, errors = int(found["requests"]), int(found["errors"])
    holds = found["holds"]
    return {
        "system": {
            "status": "degraded" if holds["stale"] or any(found[name] for name in TROUBLE) else "healthy",
            "active_users": found["active_users"],
            "total_requests": requests,
            "error_rate": _rate(errors, requests),
            **found["latency"],
        },
        "database": {"status": "connected", "response_time_ms": answered_ms},
        "money": {
            "holds_open": holds["open"],
            "held_usd": show(int(holds["held_nano"])),
            "holds_stale": holds["stale"],
            "stripe_events_waiting": found["stripe_events_waiting"],
            "payments_disagreeing": found["payments_disagreeing"],
        },
        "usage": {"rolled_up_until": until, "lag_s": _age_s(until)},
        "outbox": {"waiting": found["outbox"], "failed": found["outbox_failed"]},
        "refusals": found["refusals"],
        "alerts_open": found["alerts"],
        "providers": [{**each, "error_rate": _rate(each["errors"], each["requests"])} for each in found["providers"]],
    }


def _rate(part: int, whole: int) -> float:
    return part / whole if whole else 0.0


def _age_s(at: str | None) -> int | None:
    return None if at is None else max(0, round((datetime.now(UTC) - datetime.fromisoformat(at)).total_seconds()))
