"""Chat sessions and their messages, under /chat and /v1/chat."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response
from pydantic import AfterValidator, Field, StringConstraints

from gateway import chats
from gateway.errors import InvalidRequest
from gateway.http.app import json_answer
from gateway.http.body import Body, Cursor, Id, Limit, Line, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

MOST_MESSAGES = 500
MOST_BYTES = 200_000
MOST_SKIPPED = 10_000

User = Annotated[Caller, Depends(require(Scope.INFERENCE))]
type Offset = Annotated[int, Query(ge=0, le=MOST_SKIPPED)]


def _storable(text: str) -> str:
    if "\0" in text:
        raise ValueError("holds NUL")
    if len(text.encode("utf-8", "replace")) > MOST_BYTES:
        raise ValueError("is too long")
    text.encode()  # a lone surrogate cannot be stored
    return text


type Text = Annotated[str, AfterValidator(_storable)]
type Description = Annotated[Text, StringConstraints(max_length=2000)]
type Model = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:@/-]{1,255}$")]


class Session(Body):
    title: Line | None = None
    name: Line | None = None
    description: Description | None = None
    model: Model | None = None


class Search(Body):
    query: Annotated[Line, Field(min_length=1)]
    limit: Annotated[int, Field(ge=1, le=100)] = 20


class Message(Body):
    role: Literal["user", "assistant", "system", "tool"]
    content: Text
    model: Model | None = None
    tokens: Annotated[int, Field(ge=0, le=10_000_000)] = 0
    message_id: Line | None = None
    tool_call_id: Line | None = None


def _shown(session: dict[str, Any]) -> dict[str, Any]:
    return {**session, "name": session["title"], "is_active": True}


def _owner(caller: Caller, scope: Scope) -> chats.Owner:
    """Whose sessions a caller has: the account's where he may do `scope`, else those that his own key made."""
    return {"user_id": caller.user_id, "own_key": None if scope in caller.scopes else caller.key_id}


async def create_session(body: Session, caller: User) -> Response:
    """Make a session."""
    title = body.title or body.name or "New chat"
    made = _shown(await chats.create(caller.user_id, caller.key_id, title, body.description, body.model))
    told = {"session_id": made["id"], "name": title, "created_at": made["created_at"]}
    return json_answer({"success": True, **told, "message": "The session was made.", "data": made}, 201)


async def list_sessions(caller: User, limit: Limit = 50, offset: Offset = 0) -> Response:
    """List the user's sessions, the last changed first."""
    found, count = await chats.listed(_owner(caller, Scope.ACCOUNT_READ), limit, offset)
    return json_answer({"success": True, "data": [_shown(each) for each in found], "count": count})


async def get_session(
    id: Id,  # noqa: A002 - the path's own name
    caller: User,
    message_limit: Annotated[int, Query(ge=1, le=MOST_MESSAGES)] = 100,
    before: Cursor | None = None,
) -> Response:
    """Show a session with its latest messages, as many as fit into one answer; `has_more` says that there are others,
    which come with `before`, the id of the first that was shown.
    """
    found = _shown(await chats.get(_owner(caller, Scope.ACCOUNT_READ), id, message_limit, before))
    data = {name: value for name, value in found.items() if name != "messages"}  # once: they may fill the answer
    return json_answer({"success": True, "session": found, "data": data})


async def change_session(id: Id, body: Session, caller: User) -> Response:  # noqa: A002
    """Change a session's title, description or model."""
    changes = {name: getattr(body, name) for name in body.model_fields_set}
    if "name" in changes:
        changes.setdefault("title", changes.pop("name"))
        changes.pop("name", None)
    if "title" in changes and changes["title"] is None:
        raise InvalidRequest("A session has a title.", param="title")
    found = _shown(await chats.change(_owner(caller, Scope.ACCOUNT_WRITE), id, changes))
    return json_answer({"success": True, "session": found, "data": found})


async def delete_session(id: Id, caller: User) -> Response:  # noqa: A002
    """Delete a session."""
    await chats.delete(_owner(caller, Scope.ACCOUNT_WRITE), id)
    return json_answer({"success": True, "message": "The session was deleted."})


async def search(body: Search, caller: User) -> Response:
    """Find sessions by what their titles or messages say."""
    found = [_shown(each) for each in await chats.search(_owner(caller, Scope.ACCOUNT_READ), body.query, body.limit)]
    return json_answer({"success": True, "data": found, "count": len(found)})


async def stats(caller: User) -> Response:
    """Count the user's sessions and messages."""
    found = await chats.stats(_owner(caller, Scope.ACCOUNT_READ))
    return json_answer({"success": True, "stats": found, "data": found})


async def add_message(id: Id, body: Message, caller: User) -> Response:  # noqa: A002
    """Store a message that was said elsewhere."""
    message = body.model_dump(exclude_none=True)
    made = await chats.add(_owner(caller, Scope.ACCOUNT_READ), caller.key_id, id, message)
    return json_answer({"success": True, "message_id": made["id"], "data": made}, 201)


ROUTES = (
    ("POST", "/sessions", create_session, 201),
    ("GET", "/sessions", list_sessions, 200),
    ("GET", "/sessions/{id}", get_session, 200),
    ("PUT", "/sessions/{id}", change_session, 200),
    ("DELETE", "/sessions/{id}", delete_session, 200),
    ("POST", "/sessions/{id}/messages", add_message, 201),
    ("POST", "/search", search, 200),
    ("GET", "/stats", stats, 200),
)

router = APIRouter(route_class=StrictRoute)
for _prefix in ("/chat", "/v1/chat"):
    for _method, _path, _endpoint, _status in ROUTES:
        router.add_api_route(_prefix + _path, _endpoint, methods=[_method], status_code=_status)
