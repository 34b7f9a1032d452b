"""Stored responses: what the Responses API can be asked for again, by its id, for thirty days."""

from __future__ import annotations

import uuid
from typing import Any

from gateway import database, refusals
from gateway.errors import InsufficientScope, Unauthenticated

PREFIX = "resp_"


def stored_id(response_id: str) -> str:
    """The id under which a response is stored; of what is no response's id, one that nothing is stored under."""
    try:
        return str(uuid.UUID(hex=response_id.removeprefix(PREFIX)))
    except ValueError:
        return str(uuid.UUID(int=0))


async def items(response_id: str, **caller: Any) -> list[dict[str, Any]]:
    """What was said up to a response and by it, oldest first. Raises NotFound and what a key's refusal is."""
    return list(await _asked("response_items", response_id, caller))


async def get(response_id: str, **caller: Any) -> dict[str, Any]:
    """A response as it was told. Raises NotFound and what a key's refusal is."""
    return dict((await _asked("response", response_id, caller))["response"])


async def inputs(response_id: str, **caller: Any) -> dict[str, Any]:
    """The input of a response, as OpenAI's list of items. Raises NotFound and what a key's refusal is."""
    found = (await _asked("response", response_id, caller))["input"]
    name = response_id.removeprefix(PREFIX)
    data = [{"id": f"item_{name}_{number}", **item} for number, item in enumerate(found)]
    ends = {"first_id": data[0]["id"], "last_id": data[-1]["id"]} if data else {"first_id": None, "last_id": None}
    return {"object": "list", "data": data, **ends, "has_more": False}


async def delete(response_id: str, **caller: Any) -> dict[str, Any]:
    """Delete a response. Raises NotFound and what a key's refusal is."""
    await _asked("delete_response", response_id, caller)
    return {"id": response_id, "object": "response", "deleted": True}


async def _asked(function: str, response_id: str, caller: dict[str, Any]) -> Any:
    try:
        return await database.call(function, **caller, response_id=stored_id(response_id))
    except (Unauthenticated, InsufficientScope) as refusal:
        await refusals.count(refusal, caller["ip"], caller["key_id"])
        raise
