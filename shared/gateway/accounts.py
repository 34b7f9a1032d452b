"""An account as its owner has it: profile, preferences, and everything that is kept of it."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway import database, unsubscribe
from gateway.errors import InvalidRequest
from gateway.money import show

MOST_EXPORTED = 1_000
"""Rows of a kind that are read at once for an export."""
MOST_PART_BYTES = 5_500_000
"""Of a part of an export, as a JSON string: a Lambda function answers with 6 MB at most, all included."""
KINDS = (
    "api_keys", "credit_transactions", "requests", "audit_log", "chat_sessions", "chat_messages", "responses",
)  # fmt: skip
"""What of an account grows without bound, in the order in which an export has it."""
CURSOR = re.compile(
    f"(?P<kind>{'|'.join(KINDS)}):"
    r"(?P<place>|\d{1,18}|[0-9a-f-]{36}|[0-9][0-9 :.+-]{18,33}/[0-9a-f-]{36})"
)
"""Where a part of an export begins: a kind, and the place of its last row that was handed out."""

type Actor = dict[str, Any]


async def profile(user_id: int) -> dict[str, Any]:
    """A user's profile. Raises NotFound."""
    found: dict[str, Any] = await database.call("profile", user_id=user_id)
    return found


async def change_profile(actor: Actor, user_id: int, changes: dict[str, str]) -> dict[str, Any]:
    """Change what is given of {username, display_name}. Raises Conflict for a name that is taken."""
    found: dict[str, Any] = await database.call("change_profile", user_id=user_id, changes=changes, actor=actor)
    return found


async def preferences(user_id: int) -> dict[str, Any]:
    """What a user wants to be told of."""
    return _shown(await database.call("preferences", user_id=user_id))


async def set_preferences(actor: Actor, user_id: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Change what is given of a user's preferences; returns all of them."""
    return _shown(await database.call("set_preferences", user_id=user_id, changes=changes, actor=actor))


async def turn_off(token: str, ip: str | None, request_id: str) -> str:
    """Turn off what the link of a mail names, and say what that is. Again it changes nothing. Raises InvalidRequest."""
    user_id, preference = unsubscribe.read(token)
    actor = {"name": f"user:{user_id}", "user_id": user_id, "ip": ip, "request_id": request_id}
    await database.call("unsubscribe", user_id=user_id, preference=preference, actor=actor)
    return unsubscribe.PREFERENCES[preference]


async def export(user_id: int, cursor: str | None = None) -> dict[str, Any]:
    """A part of everything that is kept of a user, from `cursor` on; amounts in nano-dollars.

    `next_cursor` is where the next part begins, null where this was the last; `is_whole` says that one part was all.
    Raises InvalidRequest for a cursor that no part had.
    """
    kind, place = _from(cursor)
    part: dict[str, Any] = {}
    if cursor is None:
        part = await database.call("export_user", user_id=user_id)
    left = MOST_PART_BYTES - 2 * len(msgspec.json.encode(part))
    rows: dict[str, list[Any]] = {name: [] for name in KINDS}
    while left > 0:
        asked = {"user_id": user_id, "kind": kind, "after": place, "most": MOST_EXPORTED, "most_bytes": left}
        found = await database.call("export_part", **asked)
        if found["bytes"] > left and any(rows.values()):
            break  # one row that is larger than what is left: the next part begins with it
        rows[kind] += found["rows"]
        left, place = left - found["bytes"], found["next"]
        if place is None:
            if kind == KINDS[-1]:
                return {**part, **rows, "is_whole": cursor is None, "next_cursor": None}
            kind = KINDS[KINDS.index(kind) + 1]
    return {**part, **rows, "is_whole": False, "next_cursor": f"{kind}:{place or ''}"}


def _from(cursor: str | None) -> tuple[str, str | None]:
    """The kind and the place where a part of an export begins. Raises InvalidRequest."""
    if cursor is None:
        return KINDS[0], None
    if not (found := CURSOR.fullmatch(cursor)):
        raise InvalidRequest("Send the `next_cursor` of the part before, as it was.", param="cursor")
    return found["kind"], found["place"] or None


def _shown(found: dict[str, Any]) -> dict[str, Any]:
    wanted = {name: value for name, value in found.items() if isinstance(value, bool)}
    return {**wanted, "low_balance_usd": show(found["low_balance_nano"])}
