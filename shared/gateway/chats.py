"""Chats: a user's sessions, the messages in them, and what a completion in a session follows."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway import database, refusals
from gateway.errors import InsufficientScope, Unauthenticated

MOST_FOLLOWED = 500
"""Messages of a session that a completion can follow."""
BYTES_PER_TOKEN = 4

type Owner = dict[str, int | None]
"""Whose sessions: {user_id, own_key}, the latter null for those of all the user's keys."""
type Session = dict[str, Any]
type Message = dict[str, Any]


async def create(user_id: int, key_id: int, title: str, description: str | None, model: str | None) -> Session:
    """Make a session. Raises InvalidRequest for one too many."""
    asked = {"user_id": user_id, "key_id": key_id, "title": title, "description": description, "model": model}
    return dict(await database.call("create_session_of", **asked))


async def listed(owner: Owner, limit: int, offset: int) -> tuple[list[Session], int]:
    """A page of a user's sessions, the last changed first, and how many there are."""
    found = await database.call("sessions", **owner, most=limit, skipped=offset)
    return found["sessions"], found["count"]


async def get(owner: Owner, session_id: int, limit: int, before: int | None) -> Session:
    """A session with its latest messages, before one if told. Raises NotFound."""
    return dict(await database.call("session", session_id=session_id, **owner, most=limit, before=before))


async def change(owner: Owner, session_id: int, changes: dict[str, Any]) -> Session:
    """Change what is given of {title, description, model}. Raises NotFound."""
    return dict(await database.call("change_session", session_id=session_id, **owner, changes=changes))


async def delete(owner: Owner, session_id: int) -> None:
    """Delete a session. Raises NotFound."""
    await database.call("delete_session", session_id=session_id, **owner)


async def search(owner: Owner, wanted: str, limit: int) -> list[Session]:
    """Sessions whose title or messages hold a text, in whatever case."""
    return list(await database.call("search_sessions", **owner, wanted=wanted, most=limit))


async def stats(owner: Owner) -> dict[str, Any]:
    """How many sessions and messages a user has, and their tokens."""
    return dict(await database.call("session_stats", **owner))


async def add(owner: Owner, key_id: int, session_id: int, message: Message) -> Message:
    """Store a message, once by its message_id. Raises NotFound, and InvalidRequest where the key keeps nothing."""
    asked = {**owner, "key_id": key_id, "session_id": session_id, "message": message}
    return dict(await database.call("add_message", **asked))


async def followed(session_id: int, models: list[str], own_tokens: int, **caller: Any) -> list[Message]:
    """The messages of a session that fit before a request of so many tokens, answer included, oldest first.

    Raises NotFound, InvalidRequest where the key keeps nothing, and what a key's refusal is.
    """
    try:
        found = await database.call(
            "session_context", **caller, session_id=session_id, models=models, most=MOST_FOLLOWED
        )
    except (Unauthenticated, InsufficientScope) as refusal:
        await refusals.count(refusal, caller["ip"], caller["key_id"])
        raise
    return within(found["messages"], (found["context_length"] or 0) - own_tokens)


def within(messages: list[Message], tokens: int) -> list[Message]:
    """The latest messages that fit into so many tokens; the first is never the answer of a tool whose call is gone."""
    kept: list[Message] = []
    for message in reversed(messages):
        tokens -= -(-len(msgspec.json.encode(message)) // BYTES_PER_TOKEN)
        if tokens < 0:
            break
        kept.append(message)
    kept.reverse()
    while kept and kept[0]["role"] == "tool":
        del kept[0]
    return kept
