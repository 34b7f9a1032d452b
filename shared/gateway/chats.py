"""Chats: a user's sessions, the messages in them, and what a completion in a session follows."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway import database, refusals
from gateway.errors import InsufficientScope, Unauthenticated

MOST_FOLLOWED = 500
MOST_FOLLOWED_BYTES = 8_000_000
"""Messages of a session that a completion can follow, and what they take as JSON strings."""
MOST_PAGE_BYTES = 5_500_000
"""Of the messages shown at once, as a JSON string: a Lambda function answers with 6 MB at most, all included."""
MOST_MESSAGE_BYTES = 5_500_000
"""Of a message that is kept, as a JSON string, so that a page can show it (api.max_kept_bytes)."""
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
    """A session with its latest messages before the one `before`: at most `limit`, and what fits into an answer.

    `has_more` says whether there are earlier ones. Raises NotFound.
    """
    asked = {"session_id": session_id, **owner, "most": limit, "before": before}
    return dict(await database.call("session", **asked, most_bytes=MOST_PAGE_BYTES))


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
    """Store a message, once by its message_id.

    Raises NotFound, InvalidRequest where the key keeps nothing, and StorageFull above the plan's bytes.
    """
    asked = {**owner, "key_id": key_id, "session_id": session_id, "message": message}
    return dict(await database.call("add_message", **asked))


async def followed(session_id: int, models: list[str], own_tokens: int, own_bytes: int, **caller: Any) -> list[Message]:
    """The messages of a session that fit before a request of so many tokens, answer included, oldest first.

    `own_bytes` of the request are to be kept. Raises NotFound, InvalidRequest where the key keeps nothing, StorageFull
    above the plan's bytes, RateLimitExceeded for a request that could not be admitted, and what a key's refusal is.
    """
    asked = {"session_id": session_id, "models": models, "most": MOST_FOLLOWED, "own_bytes": own_bytes}
    try:
        found = await database.call("session_context", **caller, **asked, most_bytes=MOST_FOLLOWED_BYTES)
    except (Unauthenticated, InsufficientScope) as refusal:
        await refusals.count(refusal, caller["ip"], caller["key_id"])
        raise
    return within(found["messages"], (found["context_length"] or 0) - own_tokens)


def kept_bytes(message: Message) -> int:
    """What a message takes where it is kept: of its JSON as a string in another JSON text, with its row."""
    encoded = msgspec.json.encode(message)
    return 1024 + len(encoded) + encoded.count(b'"') + encoded.count(b"\\")


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
