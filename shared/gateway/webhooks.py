"""Users' webhooks: where events of their accounts go, signed with a secret that is shown once."""

from __future__ import annotations

import base64
import re
import secrets
from typing import Any, Literal
from urllib.parse import urlsplit

from gateway import database, posting, sealing
from gateway.errors import InvalidRequest

SECRET_BYTES = 32
URL = re.compile(r"https?://[!-~]{1,1990}")
BAD_URL = "The address must be https, that of a machine in the internet, and at port 443 or one above 1023."

type Actor = dict[str, Any]
type Event = Literal[
    "balance.low", "balance.spent", "spend.burst", "key.created", "key.rotated", "key.rotation_due", "key.deleted",
    "key.leaked", "key.paused", "payment.paid", "payment.refunded",
]  # fmt: skip
"""What can be sent; the database's list (api.hooked_events) is the same."""


async def create(actor: Actor, user_id: int, url: str, events: list[Event]) -> dict[str, Any]:
    """Store a webhook; `secret` of the answer is the only sight of it.

    Raises InvalidRequest for an address that is not public, Conflict for one more than a user may have.
    """
    await _check(url, user_id)
    secret = f"whsec_{base64.b64encode(secrets.token_bytes(SECRET_BYTES)).decode()}"
    made: dict[str, Any] = await database.call(
        "create_webhook", user_id=user_id, url=url, events=events, sealed=sealing.seal(secret), actor=actor
    )
    return {**made, "secret": secret}


async def listed(user_id: int) -> list[dict[str, Any]]:
    """A user's webhooks, without their secrets."""
    found: list[dict[str, Any]] = await database.call("webhooks_of", user_id=user_id)
    return found


async def change(actor: Actor, user_id: int, webhook_id: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Change what is given of {url, events, is_active}. Raises InvalidRequest and NotFound."""
    if "url" in changes:
        await _check(changes["url"], user_id)
    changed: dict[str, Any] = await database.call(
        "change_webhook", webhook_id=webhook_id, user_id=user_id, changes=changes, actor=actor
    )
    return changed


async def delete(actor: Actor, user_id: int, webhook_id: int) -> None:
    """Delete a webhook. Raises NotFound."""
    await database.call("delete_webhook", webhook_id=webhook_id, user_id=user_id, actor=actor)


async def test(actor: Actor, user_id: int, webhook_id: int) -> str:
    """Have a test event sent, and give its id. Raises NotFound, and Conflict for a webhook that is turned off."""
    sent = await database.call("test_webhook", webhook_id=webhook_id, user_id=user_id, actor=actor)
    return f"evt_{sent['event_id']}"


async def deliveries(
    user_id: int, webhook_id: int, cursor: int | None, limit: int
) -> tuple[list[dict[str, Any]], int | None]:
    """A page of what was sent to a webhook, the last first, and where the next one starts. Raises NotFound."""
    found = await database.call("deliveries_of", webhook_id=webhook_id, user_id=user_id, cursor=cursor, most=limit + 1)
    page = found[:limit]
    return page, page[-1]["id"] if len(found) > limit else None


async def _check(url: str, user_id: int) -> None:
    """Refuse an address that would be refused when an event is sent; it is looked at again then.

    Raises InvalidRequest.
    """
    try:
        parts = urlsplit(url)
        is_plain = URL.fullmatch(url) and parts.hostname and not (parts.username or parts.password or parts.fragment)
        if is_plain:
            await posting.public_address(url, user_id)
            return
    except (posting.Undelivered, OSError, ValueError):
        pass  # the answer is one for all of it: it tells nothing of the networks behind this machine
    raise InvalidRequest(BAD_URL, param="url")
