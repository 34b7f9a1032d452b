"""Where the account's events are sent."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import AfterValidator, Field, StringConstraints

from gateway import webhooks
from gateway.errors import InvalidRequest
from gateway.http.app import json_answer
from gateway.http.body import Body, Cursor, Id, Limit, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope
from gateway.webhooks import Event

router = APIRouter(route_class=StrictRoute)
Reader = Annotated[Caller, Depends(require(Scope.ACCOUNT_READ))]
Writer = Annotated[Caller, Depends(require(Scope.ACCOUNT_WRITE))]
type Url = Annotated[str, StringConstraints(min_length=1, max_length=2000)]
type Events = Annotated[
    list[Event], Field(min_length=1, max_length=100), AfterValidator(lambda events: sorted(set(events)))
]


class Webhook(Body):
    url: Url
    events: Events


class WebhookChange(Body):
    url: Url | None = None
    events: Events | None = None
    is_active: bool | None = None


@router.get("/user/webhooks")
async def list_webhooks(caller: Reader) -> Response:
    """List the account's webhooks; `disabled_at` is when one was turned off because it failed."""
    found = await webhooks.listed(caller.user_id)
    return json_answer({"success": True, "webhooks": found, "count": len(found)})


@router.post("/user/webhooks", status_code=201)
async def create_webhook(body: Webhook, caller: Writer) -> Response:
    """Have events sent to an address. `secret` signs them (see https://www.standardwebhooks.com); it is shown once."""
    made = await webhooks.create(caller.actor(), caller.user_id, body.url, body.events)
    return json_answer({"success": True, "webhook": made, "secret": made["secret"]}, 201)


@router.put("/user/webhooks/{id}")
async def change_webhook(id: Id, body: WebhookChange, caller: Writer) -> Response:  # noqa: A002 - the path's own name
    """Change a webhook, or turn it on or off."""
    changes = body.model_dump(exclude_unset=True)
    if None in changes.values():
        raise InvalidRequest("What is sent cannot be null.")
    changed = await webhooks.change(caller.actor(), caller.user_id, id, changes)
    return json_answer({"success": True, "webhook": changed})


@router.delete("/user/webhooks/{id}")
async def delete_webhook(id: Id, caller: Writer) -> Response:  # noqa: A002
    """Delete a webhook."""
    await webhooks.delete(caller.actor(), caller.user_id, id)
    return json_answer({"success": True, "message": "The webhook was deleted.", "timestamp": datetime.now(UTC)})


@router.post("/user/webhooks/{id}/test", status_code=202)
async def test_webhook(id: Id, caller: Writer) -> Response:  # noqa: A002
    """Have a `webhook.test` sent within a minute; what came of it is among the deliveries."""
    event_id = await webhooks.test(caller.actor(), caller.user_id, id)
    return json_answer({"success": True, "event_id": event_id}, 202)


@router.get("/user/webhooks/{id}/deliveries")
async def list_deliveries(id: Id, caller: Reader, limit: Limit = 50, cursor: Cursor | None = None) -> Response:  # noqa: A002
    """List what was sent to a webhook and what is on its way, the newest first."""
    page, following = await webhooks.deliveries(caller.user_id, id, cursor, limit)
    return json_answer({"success": True, "deliveries": page, "count": len(page), "next_cursor": following})
