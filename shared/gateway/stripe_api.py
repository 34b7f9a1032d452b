"""The one door to Stripe (https://docs.stripe.com/api): what is asked of it, and what its objects say, in cents.

Every call that makes something carries an idempotency key of its own, so that it can be sent again. What Stripe says in
words stays here: callers get our errors.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import stripe

from gateway import telemetry
from gateway.errors import Conflict, NotFound, PaymentsUnavailable
from gateway.settings import settings

TIMEOUT_S = 8.0
"""For one try of a call; a function has 15 seconds, and what it did not get the job asks again."""
RETRIES = 1
PAYMENT = "gatewayz_payment_id"
USER = "gatewayz_user_id"
PLAN = "gatewayz_plan_id"
PRICE = "gatewayz_price_id"
"""Under these names our ids are with Stripe's objects; nobody else can write there."""
OPEN_DISPUTES = ("needs_response", "under_review")
"""Money was withdrawn, and it is not decided; a `warning_…` is only a question."""

_clients: dict[asyncio.AbstractEventLoop, tuple[stripe.StripeClient, stripe.HTTPXClient]] = {}


@asynccontextmanager
async def asked() -> AsyncIterator[Any]:
    """Stripe's API for the running loop, whose errors leave as NotFound, Conflict and PaymentsUnavailable."""
    try:
        yield _client().v1
    except stripe.InvalidRequestError as error:
        telemetry.log("stripe_refused", level="WARNING", code=error.code, stripe_request_id=error.request_id)
        refusal = NotFound if error.code == "resource_missing" else Conflict
        raise refusal from None
    except stripe.StripeError as error:
        telemetry.log("stripe_failed", level="ERROR", error=type(error).__name__, stripe_request_id=error.request_id)
        raise PaymentsUnavailable from None


def _client() -> stripe.StripeClient:
    if settings.stripe is None:
        raise NotFound("This gateway takes no payments.")
    loop = asyncio.get_running_loop()
    if loop not in _clients:
        for closed in [other for other in _clients if other.is_closed()]:
            del _clients[closed]
        line = stripe.HTTPXClient(timeout=TIMEOUT_S)
        client = stripe.StripeClient(
            settings.stripe.key.reveal(),
            base_addresses={"api": settings.stripe.base_url},
            http_client=line,
            max_network_retries=RETRIES,
        )
        _clients[loop] = (client, line)
    return _clients[loop][0]


def is_set_up() -> bool:
    """Whether this gateway takes payments."""
    return settings.stripe is not None


async def close() -> None:
    """Close the running loop's connections; a later call opens others."""
    if found := _clients.pop(asyncio.get_running_loop(), None):
        await found[1].close_async()  # type: ignore[no-untyped-call]


async def customer(user_id: int, email: str | None) -> str:
    """The id of a customer for a user; the same for a repetition."""
    async with asked() as api:
        wanted = {"metadata": {USER: str(user_id)}} | ({"email": email} if email else {})
        made = await api.customers.create_async(wanted, {"idempotency_key": f"gatewayz-customer-{user_id}"})
        return str(made.id)


async def delete_customer(customer_id: str) -> None:
    """Delete a customer with cards, open checkouts and subscriptions, which end at once; again it changes nothing."""
    async with asked() as api:
        try:
            await api.customers.delete_async(customer_id)
        except stripe.InvalidRequestError as error:
            if error.code != "resource_missing":
                raise


async def facts_of_intent(intent_id: str, *, is_unattended: bool = False) -> dict[str, Any]:
    """What Stripe says of a payment intent, with all that went back of it, as api.record_payment takes it.

    Nobody can help a payment that is made unattended: one that wants a card or a person has failed.
    """
    async with asked() as api:
        intent = await api.payment_intents.retrieve_async(intent_id, {"expand": ["latest_charge"]})
        refunds = await api.refunds.list_async({"payment_intent": intent_id, "limit": 100})
        disputes = await api.disputes.list_async({"payment_intent": intent_id, "limit": 100})
        returned = [refund async for refund in refunds.auto_paging_iter()]
        disputed = [dispute async for dispute in disputes.auto_paging_iter()]
    details = member(intent.latest_charge, "payment_method_details")
    return {
        "status": _status(intent.status, is_unattended=is_unattended),
        "paid_cents": intent.amount_received,
        "currency": intent.currency,
        "intent_id": intent.id,
        "card_fingerprint": member(member(details, "card"), "fingerprint"),
        "refunded_cents": sum(each.amount for each in returned if each.status not in ("failed", "canceled")),
        "lost_cents": sum(each.amount for each in disputed if each.status == "lost"),
        "is_disputed": any(each.status in OPEN_DISPUTES for each in disputed),
    }


def _status(said: str, *, is_unattended: bool) -> str:
    if said == "succeeded":
        return "paid"
    if said == "canceled":
        return "canceled"
    return "failed" if is_unattended and said.startswith("requires_") else "pending"


async def facts_of_session(session_id: str) -> dict[str, Any]:
    """What Stripe says of a checkout's payment."""
    async with asked() as api:
        session = await api.checkout.sessions.retrieve_async(session_id)
    if session.payment_intent:
        return {**await facts_of_intent(session.payment_intent), "session_id": session.id}
    return {"status": "canceled" if session.status == "expired" else "pending", "session_id": session.id}


async def invoice(invoice_id: str) -> dict[str, Any] | None:
    """A subscription's invoice: whose, for which plan, of how much, until when; None when it is none of ours."""
    async with asked() as api:
        found = await api.invoices.retrieve_async(invoice_id, {"expand": ["payments"]})
    details = member(member(found, "parent"), "subscription_details")
    metadata = member(details, "metadata")
    if member(metadata, USER) is None:
        return None
    paid = [member(member(each, "payment"), "payment_intent") for each in found.payments.data]
    return {
        "subscription_id": details.subscription,
        "user_id": int(member(metadata, USER)),
        "plan_id": int(member(metadata, PLAN)),
        "amount_cents": found.amount_paid or found.amount_due,
        "is_paid": found.status == "paid",
        "is_period": found.billing_reason in ("subscription_create", "subscription_cycle"),
        "intent_id": next(iter(paid), None),
        "ends_at": max((line.period.end for line in found.lines.data), default=None),
        "currency": found.currency,
    }


async def confirm_unattended(intent_id: str, key: str) -> None:
    """Charge an intent's card, nobody being there. What a card says to that, the intent tells afterwards."""
    async with asked() as api:
        try:
            await api.payment_intents.confirm_async(intent_id, {"off_session": True}, {"idempotency_key": key})
        except stripe.CardError as error:
            telemetry.log("card_refused", level="WARNING", code=error.code, stripe_request_id=error.request_id)
            await api.payment_intents.cancel_async(intent_id)


async def cancel_intent(intent_id: str) -> None:
    """Cancel an intent; one that is paid, or canceled already, stays as it is."""
    async with asked() as api:
        try:
            await api.payment_intents.cancel_async(intent_id)
        except stripe.InvalidRequestError as error:
            if error.code != "payment_intent_unexpected_state":
                raise


async def price_of(plan: dict[str, Any]) -> str:
    """The price at Stripe of a plan {plan_id, name, monthly_price_cents}, made when it is first asked for."""
    cents = plan["monthly_price_cents"]
    named = f"gatewayz-plan-{plan['plan_id']}-{cents}"
    async with asked() as api:
        known = await api.prices.list_async({"lookup_keys": [named], "limit": 1})
        if known.data:
            return str(known.data[0].id)
        made = await api.prices.create_async(
            {
                "currency": "usd", "unit_amount": cents, "recurring": {"interval": "month"}, "lookup_key": named,
                "product_data": {"name": plan["name"]},
            },
            {"idempotency_key": named},
        )  # fmt: skip
        return str(made.id)


async def change_subscription(subscription_id: str, price: str, plan_id: int) -> None:
    """Put a live subscription on another price; Stripe prorates, and a cancelation is taken back."""
    async with asked() as api:
        found = await api.subscriptions.retrieve_async(subscription_id)
        items = [{"id": found["items"].data[0].id, "price": price}]
        wanted = {"items": items, "metadata": {PLAN: str(plan_id)}, "cancel_at_period_end": False}
        await api.subscriptions.update_async(subscription_id, wanted)


async def subscription(subscription_id: str) -> dict[str, Any] | None:
    """A subscription {user_id, plan_id, status, period_end, cancel_at_period_end} as Stripe has it; None: not ours."""
    async with asked() as api:
        found = await api.subscriptions.retrieve_async(subscription_id)
    user_id, plan_id = member(found.metadata, USER), member(found.metadata, PLAN)
    if user_id is None or plan_id is None:
        return None
    ends = [item.current_period_end for item in found["items"].data]
    return {
        "user_id": int(user_id), "plan_id": int(plan_id), "status": found.status, "period_end": max(ends, default=None),
        "cancel_at_period_end": found.cancel_at_period_end,
    }  # fmt: skip


async def give_back(subscription_id: str) -> None:
    """End a subscription at once, and refund what its last invoice was paid with; again it changes nothing."""
    async with asked() as api:
        found = await api.subscriptions.retrieve_async(subscription_id)
    billed = await invoice(found.latest_invoice) if found.latest_invoice else None
    async with asked() as api:
        if found.status != "canceled":
            await api.subscriptions.cancel_async(subscription_id)
        if billed and billed["intent_id"] and billed["is_paid"]:
            named = f"gatewayz-unwanted-{subscription_id}"
            try:
                await api.refunds.create_async({"payment_intent": billed["intent_id"]}, {"idempotency_key": named})
            except stripe.InvalidRequestError as error:
                if error.code != "charge_already_refunded":
                    raise


async def checkouts(customer_id: str) -> list[Any]:
    """A customer's checkouts, the newest first; a hundred at most."""
    async with asked() as api:
        found = await api.checkout.sessions.list_async({"customer": customer_id, "limit": 100})
        return list(found.data)


async def portal(customer_id: str, return_url: str) -> str:
    """The address of a customer's own page at Stripe: cards, invoices, subscriptions."""
    async with asked() as api:
        made = await api.billing_portal.sessions.create_async({"customer": customer_id, "return_url": return_url})
        return str(made.url)


async def saved_card(customer_id: str) -> str | None:
    """The card that a customer saved last; None for none."""
    async with asked() as api:
        found = await api.customers.payment_methods.list_async(customer_id, {"type": "card", "limit": 1})
        return str(found.data[0].id) if found.data else None


def member(thing: Any, name: str) -> Any:
    """A member of one of Stripe's objects that may not be there, of an object that may not be there."""
    return None if thing is None else getattr(thing, name, None)
