"""What an account did: its requests, their sums by day, its ledger, and what was changed of it."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any
from uuid import UUID

from gateway import database, spreadsheet
from gateway.errors import InvalidRequest, NotFound
from gateway.money import number, show

MOST_IN_STATEMENT = 10_000
"""Entries that one statement may have; a longer one is asked for by parts of its time."""
SUMS = ("requests", "prompt_tokens", "completion_tokens", "cost_nano", "byok_nano")

type Row = dict[str, Any]


async def requests(
    user_id: int, since: datetime, until: datetime, *, cursor: str | None, most: int, **filters: Any
) -> tuple[list[Row], str | None]:
    """A page of a user's requests, the newest first, and the cursor of the next; `filters` are api.activity's.

    Raises InvalidRequest for a cursor that no page gave.
    """
    before_at, before_id = _place(cursor)
    found = await database.call(
        "activity",
        user_id=user_id,
        since=since,
        until=until,
        before_at=before_at,
        before_id=before_id,
        most=most,
        **filters,
    )
    following = f"{found[-1]['created_at']}_{found[-1]['id']}" if len(found) == most else None
    return [_priced(row) for row in found], following


async def stats(user_id: int, since: date, until: date) -> dict[str, Any]:
    """What a user used from one UTC day to another: in all, and on each day that has a request, the newest first."""
    found = await database.call("activity_days", user_id=user_id, since=since, until=until)
    sums = {name: sum(row[name] for row in found) for name in SUMS}
    return {"total": _priced(sums), "days": [_priced(row) for row in found]}


async def changes(user_id: int, *, cursor: int | None, most: int, **filters: Any) -> list[Row]:
    """What was changed of a user's account and keys, the newest first; `filters` are api.audit_of's."""
    found: list[Row] = await database.call("audit_of", user_id=user_id, cursor=cursor, most=most, **filters)
    return found


async def transactions(user_id: int, *, cursor: int | None, most: int, **filters: Any) -> list[Row]:
    """A user's ledger, the newest first; `filters` are api.transactions'. All of it adds up to the balance."""
    found = await database.call("transactions", user_id=user_id, cursor=cursor, most=most, **filters)
    return [
        {
            "id": row["id"],
            "transaction_type": row["kind"],
            "amount": number(row["amount_nano"]),
            "amount_usd": show(row["amount_nano"]),
            "reference": row["reference"],
            "description": row["reason"],
            "created_at": row["created_at"],
        }
        for row in found
    ]


async def statement(user_id: int, **filters: Any) -> str:
    """A user's ledger as CSV (RFC 4180), the newest first. Raises InvalidRequest for more than 10,000 entries."""
    found = await transactions(user_id, cursor=None, most=MOST_IN_STATEMENT + 1, **filters)
    if len(found) > MOST_IN_STATEMENT:
        raise InvalidRequest(
            f"The range has more than {MOST_IN_STATEMENT} entries. Ask for a part of it.", param="from"
        )
    names = ("id", "created_at", "transaction_type", "amount_usd", "reference", "description")
    return spreadsheet.csv_of(names, ([row[name] for name in names] for row in found))


async def generation(user_id: int, given: str) -> dict[str, Any]:
    """One of a user's requests by its `gen-…` id, as OpenRouter shows it, with what the ledger has of it.

    https://openrouter.ai/docs/api-reference/get-a-generation. Raises NotFound.
    """
    try:
        hold_id = UUID(given.removeprefix("gen-"))
    except ValueError:
        raise NotFound("There is no such generation.", param="id") from None
    found = await database.call("generation", hold_id=hold_id, user_id=user_id)
    record, hold = found["record"] or {}, found["hold"]
    return {
        "id": f"gen-{hold_id}",
        "upstream_id": record.get("upstream_id"),
        "model": record.get("model"),
        "provider_name": record.get("provider"),
        "total_cost": number(record.get("cost_nano", 0)),
        "usage": number(record.get("cost_nano", 0)),
        "byok_usage": number(record.get("byok_nano", 0)),
        "is_byok": record.get("is_byok", False),
        "upstream_inference_cost": None,
        "cache_discount": None,
        **{f"tokens_{kind}": record.get(f"{kind}_tokens") for kind in ("prompt", "completion")},
        **{
            f"native_tokens_{kind}": record.get(f"{kind}_tokens")
            for kind in ("prompt", "completion", "reasoning", "cached")
        },
        "latency": record.get("first_byte_ms"),
        "generation_time": record.get("duration_ms"),
        "streamed": record.get("is_streamed"),
        "cancelled": record.get("outcome") == "cancelled",
        "finish_reason": record.get("finish_reason"),
        "outcome": record.get("outcome", hold["state"]),
        "error": record.get("error"),
        "attempts": record.get("attempts") or [],
        "created_at": hold["created_at"],
        "ledger": {
            "hold": {**_priced({"bound_nano": hold["bound_nano"]}), "state": hold["state"]},
            "settled_at": hold["ended_at"],
            "entries": [_priced(entry) for entry in found["entries"]],
        },
    }


def _priced(row: Row) -> Row:
    """A row with its nano-dollars as exact numbers of dollars."""
    dollars = {name.removesuffix("_nano"): number(row[name]) for name in row if name.endswith("_nano")}
    return {name: value for name, value in row.items() if not name.endswith("_nano")} | dollars


def _place(cursor: str | None) -> tuple[datetime | None, str | None]:
    if cursor is None:
        return None, None
    at, _, identifier = cursor.partition("_")
    try:
        moment, identifier = datetime.fromisoformat(at), str(UUID(identifier))
    except ValueError:
        raise InvalidRequest("No page gave this cursor.", param="cursor") from None
    if moment.tzinfo is None:
        raise InvalidRequest("No page gave this cursor.", param="cursor")
    return moment, identifier
