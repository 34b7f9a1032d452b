"""Subscriptions to plans: sold by a checkout of Stripe's, changed and canceled there, recorded as they are there."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gateway import database, payments, stripe_api
from gateway.errors import Conflict, NotFound
from gateway.stripe_api import PLAN, PRICE, USER

TRIES = 6

type Actor = dict[str, Any]


async def subscribe(actor: Actor, user_id: int, plan_id: int, *, success_url: str, cancel_url: str) -> dict[str, Any]:
    """Subscribe to a plan: a checkout page's address for the first one, a change with proration for one that is live.

    Raises NotFound, InvalidRequest for a plan that costs nothing, and PaymentsUnavailable.
    """
    plan = await database.call("plan_for_sale", plan_id=plan_id)
    live = await database.call("subscription_of", user_id=user_id)
    price = await stripe_api.price_of(plan)
    if live is not None:
        await stripe_api.change_subscription(live["id"], price, plan_id)
        await refresh(live["id"], actor)
        return {"status": "converted", "checkout_url": None, "new_plan": plan["name"]}
    metadata = {USER: str(user_id), PLAN: str(plan_id)}
    wanted = {
        "mode": "subscription",
        "customer": await payments.customer(user_id),
        "line_items": [{"quantity": 1, "price": price}],
        "metadata": {**metadata, PRICE: price},
        "subscription_data": {"metadata": metadata},
        "success_url": success_url,
        "cancel_url": cancel_url,
    }
    return {"status": "pending_payment", "checkout_url": await _checkout(wanted), "new_plan": plan["name"]}


async def _checkout(wanted: dict[str, Any]) -> str:
    """The address of a customer's one open checkout of a plan; one of another price is ended."""
    known = await stripe_api.checkouts(wanted["customer"])
    for session in known:
        if session.mode == "subscription" and session.status == "open":
            if stripe_api.member(session.metadata, PRICE) == wanted["metadata"][PRICE]:
                return str(session.url)
            async with stripe_api.asked() as api:
                await api.checkout.sessions.expire_async(session.id)
    # whoever asks at the same moment knows the same checkouts, and is given the same one
    key = f"gatewayz-subscribe-{wanted['customer']}-{wanted['metadata'][PRICE]}-{known[0].id if known else 'first'}"
    async with stripe_api.asked() as api:
        session = await api.checkout.sessions.create_async(wanted, {"idempotency_key": key})
    return str(session.url)


async def cancel(actor: Actor, user_id: int) -> dict[str, Any]:
    """Let a subscription end with the period that is paid. Raises NotFound and PaymentsUnavailable."""
    live = await database.call("subscription_of", user_id=user_id)
    if live is None:
        raise NotFound("There is no subscription.")
    async with stripe_api.asked() as api:
        await api.subscriptions.update_async(live["id"], {"cancel_at_period_end": True})
    return await refresh(live["id"], actor)


async def refresh(subscription_id: str, actor: Actor, event_ids: list[str] | None = None) -> dict[str, Any]:
    """Record a subscription as Stripe has it now, and end these events. Raises PaymentsUnavailable and Conflict."""
    for _ in range(TRIES):
        before = await database.call("subscription_version", subscription_id=subscription_id)
        facts = await stripe_api.subscription(subscription_id)
        if facts is None:
            for event_id in event_ids or []:
                await database.call("pass_event", event_id=event_id, outcome="not ours")
            return {}
        ends = facts.pop("period_end")
        recorded = await database.call(
            "record_subscription", subscription_id=subscription_id, version=before["version"],
            user_id=facts.pop("user_id"), event_ids=event_ids or [], actor=actor,
            facts={**facts, "period_end": ends and datetime.fromtimestamp(ends, UTC).isoformat()},
        )  # fmt: skip
        if recorded.get("unwanted"):
            await stripe_api.give_back(subscription_id)
        elif not recorded.get("stale"):
            return dict(recorded)
    raise Conflict("The subscription is changing. Send the same request again.")
