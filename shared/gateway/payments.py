"""Payments: opened here, paid at Stripe, and recorded as Stripe says, whatever it was that made us ask.

An event, a person who comes back, a job: each only says "look". What is recorded is what Stripe answers then, over the
version of the payment that was read before; whoever comes second with older facts is told, and looks again.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from gateway import database, stripe_api
from gateway.errors import Conflict, NotFound
from gateway.money import NANO, number, show

CENT_NANO = NANO // 100
LEAST_CENTS = 500
MOST_CENTS = 250_000
"""What one payment may be."""
TRIES = 6
"""How often Stripe is asked again because somebody else recorded meanwhile."""
UNATTENDED = "auto_top_up"

type Actor = dict[str, Any]
type Payment = dict[str, Any]


async def open_checkout(
    actor: Actor, user_id: int, cents: int, credit_nano: int, *, key: str | None, fingerprint: str, page: dict[str, Any]
) -> dict[str, Any]:
    """Open a payment and Stripe's page for it; `page` has {success_url, cancel_url, save_card}.

    Raises IdempotencyKeyReused, PaymentsUnavailable, and NotFound where no payments are taken.
    """
    payment = await _opened(actor, user_id, "checkout", cents, credit_nano, key, fingerprint)
    intent = {"metadata": _named(payment), **({"setup_future_usage": "off_session"} if page["save_card"] else {})}
    wanted = {
        "mode": "payment",
        "customer": await customer(user_id),
        "client_reference_id": str(payment["id"]),
        "line_items": [{"quantity": 1, "price_data": {
            "currency": "usd", "unit_amount": cents, "product_data": {"name": f"${show(credit_nano)} of credit"},
        }}],
        "metadata": _named(payment),
        "payment_intent_data": intent,
        "success_url": page["success_url"],
        "cancel_url": page["cancel_url"],
    }  # fmt: skip
    async with stripe_api.asked() as api:
        session = await api.checkout.sessions.create_async(wanted, {"idempotency_key": _key(payment, "session")})
    opened = await database.call("attach_payment", payment_id=payment["id"], session_id=session.id, intent_id=None)
    ends = datetime.fromtimestamp(session.expires_at, UTC)
    return {
        **shown(opened),
        "checkout_url": session.url,
        "url": session.url,
        "session_id": session.id,
        "expires_at": ends,
    }


async def open_intent(
    actor: Actor, user_id: int, cents: int, credit_nano: int, *, key: str | None, fingerprint: str, save_card: bool
) -> dict[str, Any]:
    """Open a payment that the user's own page confirms, by its `client_secret`. Raises as open_checkout does."""
    payment = await _opened(actor, user_id, "intent", cents, credit_nano, key, fingerprint)
    wanted = {
        "amount": cents, "currency": "usd", "customer": await customer(user_id), "metadata": _named(payment),
        "automatic_payment_methods": {"enabled": True}, **({"setup_future_usage": "off_session"} if save_card else {}),
    }  # fmt: skip
    async with stripe_api.asked() as api:
        intent = await api.payment_intents.create_async(wanted, {"idempotency_key": _key(payment, "intent")})
    opened = await database.call("attach_payment", payment_id=payment["id"], session_id=None, intent_id=intent.id)
    return {**shown(opened), "client_secret": intent.client_secret, "payment_intent_id": intent.id}


async def _opened(
    actor: Actor, user_id: int, kind: str, cents: int, credit_nano: int, key: str | None, fingerprint: str
) -> Payment:  # fmt: skip
    opened: Payment = await database.call(
        "open_payment", user_id=user_id, kind=kind, amount_cents=cents, credit_nano=credit_nano, key=key,
        request_hash=fingerprint, actor=actor,
    )  # fmt: skip
    return opened


async def customer(user_id: int) -> str:
    """A user's id as Stripe's customer; made, and written down, when it is first asked for."""
    known = await database.call("customer", user_id=user_id, customer_id=None)
    if known["customer_id"] is None:
        made = await stripe_api.customer(user_id, known["email"])
        known = await database.call("customer", user_id=user_id, customer_id=made)
    return str(known["customer_id"])


def _named(payment: Payment) -> dict[str, str]:
    return {stripe_api.PAYMENT: str(payment["id"])}


def _key(payment: Payment, what: str) -> str:
    return f"gatewayz-payment-{payment['id']}-{what}"


async def refresh(payment: Payment, actor: Actor, event_ids: list[str] | None = None) -> Payment:
    """Record what Stripe says of a payment now, and end these events. Raises PaymentsUnavailable and Conflict."""
    for _ in range(TRIES):
        recorded = await database.call(
            "record_payment", payment_id=payment["id"], version=payment["version"], facts=await _facts(payment),
            event_ids=event_ids or [], actor=actor,
        )  # fmt: skip
        if not recorded.get("stale"):
            return dict(recorded)
        payment = await find(payment_id=payment["id"]) or payment
    raise Conflict("The payment is changing. Send the same request again.")


async def _facts(payment: Payment) -> dict[str, Any]:
    if payment["invoice_id"]:
        return await _facts_of_invoice(payment["invoice_id"])
    if payment["intent_id"]:
        return await stripe_api.facts_of_intent(payment["intent_id"], is_unattended=payment["kind"] == UNATTENDED)
    if payment["session_id"]:
        return await stripe_api.facts_of_session(payment["session_id"])
    return {"status": "canceled"}  # it never came to be at Stripe


async def _facts_of_invoice(invoice_id: str) -> dict[str, Any]:
    found = await stripe_api.invoice(invoice_id)
    assert found is not None, "an invoice that was opened is ours"
    paid = await stripe_api.facts_of_intent(found["intent_id"]) if found["intent_id"] else {}
    ends = found["ends_at"] and datetime.fromtimestamp(found["ends_at"], UTC).isoformat()
    status = "paid" if found["is_paid"] else "pending"
    return {
        **paid,
        "status": status,
        "paid_cents": found["amount_cents"],
        "currency": found["currency"],
        "ends_at": ends,
    }


async def find(
    *, payment_id: int | None = None, session_id: str | None = None, intent_id: str | None = None,
    invoice_id: str | None = None,
) -> Payment | None:  # fmt: skip
    """A payment by one of its ids; None when it is none of ours."""
    found: Payment | None = await database.call(
        "find_payment", id=payment_id, session_id=session_id, intent_id=intent_id, invoice_id=invoice_id
    )
    return found


async def of_user(user_id: int, payment: Payment | None) -> Payment:
    """A payment, when it is the user's. Raises NotFound."""
    if payment is None or payment["user_id"] != user_id:
        raise NotFound("There is no such payment.")
    return payment


async def listed(user_id: int, cursor: int | None, limit: int) -> tuple[list[dict[str, Any]], int | None]:
    """A page of a user's payments, the last first, and where the next one starts."""
    found = await database.call("payments_of", user_id=user_id, cursor=cursor, most=limit + 1)
    page = found[:limit]
    return [shown(payment) for payment in page], page[-1]["id"] if len(found) > limit else None


async def packages() -> list[dict[str, Any]]:
    """The amounts that are offered."""
    found = await database.call("credit_packages")
    return [
        {**each, "credits": number(each["credit_nano"]), "credits_usd": show(each["credit_nano"])} for each in found
    ]


async def refund(actor: Actor, intent_id: str, cents: int | None, *, force: bool, key: str) -> dict[str, Any]:
    """Give money back: all of it, or so many cents; what was spent already only with `force`.

    Once per Idempotency-Key of an operator. Raises NotFound, Conflict and PaymentsUnavailable.
    """
    found = await database.call("refundable", intent_id=intent_id)
    left = found["amount_cents"] - found["refunded_cents"]
    wanted = cents or left
    named = f"gatewayz-refund-{actor['user_id']}-{key}"
    async with stripe_api.asked() as api:
        before = await api.refunds.list_async({"payment_intent": intent_id, "limit": 100})
        same = [
            each
            async for each in before.auto_paging_iter()
            if stripe_api.member(each.metadata, "gatewayz_key") == named
        ]
    if not same:
        if wanted > left or (wanted > found["unused_cents"] and not force):
            raise Conflict("That much of this payment is not unused. Send `force` to refund what was spent, too.")
        body = {"payment_intent": intent_id, "amount": wanted, "metadata": {"gatewayz_key": named}}
        async with stripe_api.asked() as api:
            same = [await api.refunds.create_async(body, {"idempotency_key": named})]
    payment = await find(payment_id=found["payment_id"])
    assert payment is not None, "it was refundable"
    await refresh(payment, actor)
    made = same[0]
    return {"refund_id": made.id, "payment_intent_id": intent_id, "amount": made.amount, "currency": made.currency,
            "status": made.status, "created_at": datetime.fromtimestamp(made.created, UTC)}  # fmt: skip


async def top_up() -> dict[str, int]:
    """Charge the saved cards of those whose balance fell below what they chose; each once."""
    opened = await database.call("open_top_ups", most=100)
    paid = 0
    for payment in opened:
        paid += (await _charge(payment))["status"] == "paid"
    return {"opened": len(opened), "paid": paid}


async def _charge(payment: Payment) -> Payment:
    """Charge a saved card, nobody being there; a card that wants its owner has failed, and is not asked again."""
    wanted = {
        "amount": payment["amount_cents"], "currency": "usd", "customer": payment["customer_id"],
        "payment_method": payment["payment_method_id"], "metadata": _named(payment),
    }  # fmt: skip
    async with stripe_api.asked() as api:
        intent = await api.payment_intents.create_async(wanted, {"idempotency_key": _key(payment, "intent")})
    attached = await database.call("attach_payment", payment_id=payment["id"], session_id=None, intent_id=intent.id)
    await stripe_api.confirm_unattended(intent.id, _key(payment, "confirm"))
    return await refresh(attached, {"name": "job:top_up"})


def shown(payment: Payment) -> dict[str, Any]:
    """A payment as its user sees it."""
    names = ("status", "kind", "currency", "amount_cents", "refunded_cents", "is_disputed", "created_at", "paid_at")
    return {
        "payment_id": payment["id"],
        **{name: payment[name] for name in names},
        "amount": number(payment["amount_cents"] * CENT_NANO),
        "credits_usd": show(payment["credit_nano"]),
        "payment_intent_id": payment["intent_id"],
        "session_id": payment["session_id"],
    }
