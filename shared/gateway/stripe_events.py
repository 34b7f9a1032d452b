"""Stripe's events: verified, kept, and worked on; from an event only its type and its object's id are believed.

An event may come late, twice, out of order, or at four places at once: what it leads to is a look at Stripe, and what
is recorded is what is seen there.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import msgspec
import stripe

from gateway import database, payments, stripe_api, subscriptions, telemetry
from gateway.errors import GatewayError, InvalidRequest, NotFound
from gateway.settings import settings

TOLERANCE_S = 300
"""How old an event's signature may be, and how far ahead of our clock."""
MOST_EVENTS = 100
ACTOR = {"name": "stripe"}
FORGED = "The event is not signed by Stripe, too old, or not an event."
ABOUT_PAYMENTS = ("payment_intent.", "charge.", "refund.", "checkout.session.")


class Event(msgspec.Struct, frozen=True):
    """What of an event is kept."""

    id: str
    type: str
    object_id: str
    """The payment intent where the object is a part of one, else the object itself."""
    payment_id: int | None
    created: int | None = None


async def receive(raw: bytes, signature: str | None) -> Event:
    """Verify an event, keep it, and work on it; a repetition of one that was worked on does nothing.

    Raises InvalidRequest for a forged, stale or malformed one, and what working on it raised: it was kept by then.
    """
    event = verified(raw, signature)
    kept = await database.call(
        "receive_event", id=event.id, type=event.type, object_id=event.object_id, payment_id=event.payment_id,
        created_at=datetime.fromtimestamp(event.created or 0, UTC),
    )  # fmt: skip
    if not kept["is_done"]:
        await work(event)
    return event


def verified(raw: bytes, signature: str | None) -> Event:
    """An event that Stripe signed not long ago (https://docs.stripe.com/webhooks/signature). Raises InvalidRequest."""
    secret = settings.stripe.webhook_secret if settings.stripe else None
    if secret is None or not secret.reveal().strip():
        raise InvalidRequest("This gateway takes no events of Stripe's.")
    try:
        stripe.WebhookSignature.verify_header(raw, signature, secret.reveal(), TOLERANCE_S)
        is_of_now = _is_of_now(signature)
        told = msgspec.json.decode(raw)
        about = told["data"]["object"]
        named = (about.get("metadata") or {}).get(stripe_api.PAYMENT)
        object_id = about.get("payment_intent") or about["id"]
        event = msgspec.convert(
            {"id": told["id"], "type": told["type"], "created": told["created"], "object_id": object_id,
             "payment_id": int(named) if named else None},
            Event,
        )  # fmt: skip
    except (stripe.SignatureVerificationError, ValueError, KeyError, TypeError, AttributeError):
        raise InvalidRequest(FORGED) from None
    if not is_of_now:
        raise InvalidRequest(FORGED)
    return event


def _is_of_now(signature: str | None) -> bool:
    """Whether a signature's time, which Stripe's own check bounds on one side only, is not ahead of ours."""
    parts = dict(part.split("=", 1) for part in (signature or "").split(","))
    return int(parts["t"]) <= time.time() + TOLERANCE_S


async def work(event: Event) -> None:
    """Look at what an event is about, and record it. Raises GatewayError where that did not work yet."""
    if event.type.startswith("customer.subscription."):
        await subscriptions.refresh(event.object_id, ACTOR, [event.id])
    elif event.type.startswith("invoice."):
        await _work_invoice(event)
    elif event.type.startswith(ABOUT_PAYMENTS):
        await _work_payment(event)
    else:
        await _pass(event, "ignored")


async def _work_payment(event: Event) -> None:
    is_session = event.object_id.startswith("cs_")
    payment = await payments.find(
        payment_id=event.payment_id,
        session_id=event.object_id if is_session else None,
        intent_id=None if is_session else event.object_id,
    )
    if payment is not None:
        if payment["session_id"] is None and is_session:
            payment["session_id"] = event.object_id
        elif payment["intent_id"] is None and event.object_id.startswith("pi_"):
            payment["intent_id"] = event.object_id
        await payments.refresh(payment, ACTOR, [event.id])
    elif event.payment_id is not None:
        raise NotFound("The event is about a payment that is not here yet.")
    else:
        await _pass(event, "not ours")


async def _work_invoice(event: Event) -> None:
    """A paid invoice grants the plan's allowance; one that failed is told by its subscription's status."""
    invoice_id = event.object_id
    if not invoice_id.startswith("in_") or (found := await stripe_api.invoice(invoice_id)) is None:
        return await _pass(event, "not ours")
    if not found["is_paid"] or found["amount_cents"] == 0:
        return await _pass(event, "nothing was paid")
    payment = await database.call(
        "open_invoice", invoice_id=invoice_id, subscription_id=found["subscription_id"], user_id=found["user_id"],
        plan_id=found["plan_id"], amount_cents=found["amount_cents"], is_period=found["is_period"], actor=ACTOR,
    )  # fmt: skip
    await payments.refresh(payment, ACTOR, [event.id])
    return None


async def _pass(event: Event, outcome: str) -> None:
    await database.call("pass_event", event_id=event.id, outcome=outcome)


async def work_due() -> dict[str, int]:
    """Work on the events that are kept and were not worked on. Two that run at once take different ones."""
    due = msgspec.convert(await database.call("claim_stripe_events", most=MOST_EVENTS), list[Event])
    failed = 0
    for event in due:
        try:
            await work(event)
        except GatewayError as error:
            failed += 1
            telemetry.log("stripe_event_failed", level="WARNING", event_id=event.id, type=event.type, code=error.code)
    return {"worked": len(due) - failed, "failed": failed}
