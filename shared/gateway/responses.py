"""Stored responses: what the Responses API can be asked for again, by its id, for thirty days."""

from __future__ import annotations

import uuid
from typing import Any

from gateway import database, refusals
from gateway.errors import InsufficientScope, InvalidRequest, Unauthenticated

PREFIX = "resp_"
MAX_DIGITS = 6
"""Of an item's number."""
MOST_FOLLOWED_BYTES = 8_000_000
"""Of the items that a response can follow, as JSON strings."""
MOST_PAGE_BYTES = 5_500_000
"""Of the items that are listed at once, as JSON strings: a Lambda function answers with 6 MB at most, all included."""


def stored_id(response_id: str) -> str:
    """The id under which a response is stored; of what is no response's id, one that nothing is stored under."""
    try:
        return str(uuid.UUID(hex=response_id.removeprefix(PREFIX)))
    except ValueError:
        return str(uuid.UUID(int=0))


async def items(response_id: str, **caller: Any) -> list[dict[str, Any]]:
    """What was said up to a response and by it, oldest first.

    Raises NotFound, ContextLengthExceeded where that is too much, RateLimitExceeded for a request that could not be
    admitted, and what a key's refusal is.
    """
    return list(await _asked("response_items", response_id, caller, most_bytes=MOST_FOLLOWED_BYTES))


async def get(response_id: str, **caller: Any) -> dict[str, Any]:
    """A response as it was answered. Raises NotFound, RateLimitExceeded and what a key's refusal is."""
    return dict((await _asked("response", response_id, caller))["response"])


async def inputs(response_id: str, after: str | None, limit: int, **caller: Any) -> dict[str, Any]:
    """A page of a response's input, as OpenAI's list of items: those after the id `after`, and what fits.

    Raises InvalidRequest for an `after` that is none of its items, NotFound, RateLimitExceeded and what a key's
    refusal is.
    """
    name = response_id.removeprefix(PREFIX)
    skipped = _place(name, after) + 1 if after is not None else 0
    asked = {"skipped": skipped, "most": limit, "most_bytes": MOST_PAGE_BYTES}
    found = await _asked("response_inputs", response_id, caller, **asked)
    data = [{"id": f"item_{name}_{number}", **item} for number, item in enumerate(found["items"], skipped)]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": found["has_more"]}


def _place(name: str, item_id: str) -> int:
    """Where an item of a response's input stands. Raises InvalidRequest."""
    number = item_id.removeprefix(f"item_{name}_")
    if number == item_id or not (number.isascii() and number.isdigit() and len(number) <= MAX_DIGITS):
        raise InvalidRequest("`after` is the id of none of this response's input items.", param="after")
    return int(number)


async def delete(response_id: str, **caller: Any) -> dict[str, Any]:
    """Delete a response. Raises NotFound and what a key's refusal is."""
    await _asked("delete_response", response_id, caller)
    return {"id": response_id, "object": "response", "deleted": True}


async def _asked(function: str, response_id: str, caller: dict[str, Any], **more: Any) -> Any:
    try:
        return await database.call(function, **caller, response_id=stored_id(response_id), **more)
    except (Unauthenticated, InsufficientScope) as refusal:
        await refusals.count(refusal, caller["ip"], caller["key_id"])
        raise
