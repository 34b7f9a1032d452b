"""The end of an account: at Stripe first, so that nothing is charged for an account that nobody can enter."""

from __future__ import annotations

from typing import Any

from gateway import database, stripe_api
from gateway.errors import InvalidRequest

type Actor = dict[str, Any]


async def delete(actor: Actor, user_id: int, confirmation: str) -> None:
    """End an account for good, when its own name or address confirms it; again it changes nothing.

    Subscriptions, saved cards and checkouts end with the customer at Stripe. Raises InvalidRequest, Conflict for the
    last admin, and PaymentsUnavailable when Stripe does not answer: then nothing has changed here.
    """
    found = await database.call("closing", user_id=user_id, actor=actor)
    if confirmation not in (found["username"], found["email"]):
        raise InvalidRequest("Confirm with the account's user name or e-mail address.", param="confirmation")
    if stripe_api.is_set_up() and found["customer_id"] is not None:
        await stripe_api.delete_customer(found["customer_id"])
    await database.call("delete_user", user_id=user_id, actor=actor)
