"""Stripe's objects, as version 2026-10-28 of its API has them: the members that are always there (https://docs.stripe.com/api)."""

from __future__ import annotations

import secrets
import time
from typing import Any

type Object = dict[str, Any]

API_VERSION = "2026-10-28.endive"
DAY_S = 24 * 3600
MONTH_S = 30 * DAY_S
WITHOUT = {
    "refund": ("livemode",), "subscription_item": ("livemode",), "line_item": ("created",),
    "invoice_payment": ("metadata",), "balance_transaction": ("livemode", "metadata"), "event": ("metadata",),
}  # fmt: skip
"""Kinds of objects that lack what the others have."""


def an_id(prefix: str) -> str:
    """An id as Stripe makes them."""
    return f"{prefix}_{secrets.token_hex(12)}"


def _base(kind: str, prefix: str, **members: Any) -> Object:
    """What nearly every object has."""
    made = {"id": an_id(prefix), "object": kind, "created": int(time.time()), "livemode": False, "metadata": {}}
    return {name: value for name, value in {**made, **members}.items() if name not in WITHOUT.get(kind, ())}


def listed(url: str, data: list[Object], *, has_more: bool = False) -> Object:
    """A page of a list."""
    return {"object": "list", "url": url, "has_more": has_more, "data": data}


def customer(asked: Object) -> Object:
    """A customer, from what was asked."""
    return _base(
        "customer", "cus", email=asked.get("email"), name=None, description=None, shipping=None, balance=0,
        delinquent=False, invoice_prefix=secrets.token_hex(4).upper(), metadata=asked.get("metadata", {}),
    )  # fmt: skip


def card(customer_id: str | None, fingerprint: str) -> Object:
    """A saved card of a customer's."""
    return _base(
        "payment_method", "pm", type="card", customer=customer_id, allow_redisplay="unspecified",
        billing_details={"address": None, "email": None, "name": None, "phone": None, "tax_id": None},
        card={"brand": "visa", "last4": "4242", "fingerprint": fingerprint, "funding": "credit", "country": "US",
              "exp_month": 12, "exp_year": 2040},
    )  # fmt: skip


def session(asked: Object, url: str) -> Object:
    """A checkout session; what it is to make is kept beside it, under `_`."""
    now = int(time.time())
    made = _base(
        "checkout.session", "cs_test", mode=asked["mode"], status="open", payment_status="unpaid", currency="usd",
        customer=asked.get("customer"), client_reference_id=asked.get("client_reference_id"), payment_intent=None,
        subscription=None, amount_total=None, amount_subtotal=None, metadata=asked.get("metadata", {}),
        success_url=asked.get("success_url"), cancel_url=asked.get("cancel_url"), expires_at=now + DAY_S,
        payment_method_types=["card"], custom_fields=[], custom_text={}, shipping_options=[], _asked=asked,
        automatic_tax={"enabled": False, "liability": None, "provider": None, "status": None},
    )  # fmt: skip
    return made | {"url": f"{url}/pay/{made['id']}"}


def intent(asked: Object) -> Object:
    """A payment intent that waits for a card, or for its confirmation."""
    made = _base(
        "payment_intent", "pi", amount=int(asked["amount"]), amount_received=0, amount_capturable=0, currency="usd",
        status="requires_payment_method", customer=asked.get("customer"), payment_method=asked.get("payment_method"),
        latest_charge=None, last_payment_error=None, capture_method="automatic_async", confirmation_method="automatic",
        canceled_at=None, cancellation_reason=None, description=None, payment_method_types=["card"],
        setup_future_usage=asked.get("setup_future_usage"), metadata=asked.get("metadata", {}),
    )  # fmt: skip
    if made["payment_method"]:
        made["status"] = "requires_confirmation"
    return made | {"client_secret": f"{made['id']}_secret_{secrets.token_hex(8)}"}


def charge(paid: Object, method: Object) -> Object:
    """What a paid intent did to a card."""
    return _base(
        "charge", "ch", amount=paid["amount"], amount_captured=paid["amount"], amount_refunded=0, currency="usd",
        paid=True, captured=True, refunded=False, disputed=False, status="succeeded", payment_intent=paid["id"],
        customer=paid["customer"], payment_method=method["id"], metadata=paid["metadata"],
        payment_method_details={"type": "card", "card": method["card"]},
        billing_details=method["billing_details"], balance_transaction=None,
    )  # fmt: skip


def refund(paid: Object, amount: int, metadata: Object) -> Object:
    """What goes back of a paid intent."""
    return _base(
        "refund", "re", amount=amount, currency="usd", status="succeeded", reason=None, payment_intent=paid["id"],
        charge=paid["latest_charge"], balance_transaction=None, metadata=metadata,
    )  # fmt: skip


def dispute(paid: Object, amount: int, status: str) -> Object:
    """A card's owner against a paid intent."""
    return _base(
        "dispute", "du", amount=amount, currency="usd", status=status, reason="fraudulent", payment_intent=paid["id"],
        charge=paid["latest_charge"], balance_transactions=[], evidence={}, evidence_details={},
        is_charge_refundable=status.startswith("warning"), enhanced_eligibility_types=[],
    )  # fmt: skip


def price(asked: Object) -> Object:
    """A monthly price, from what was asked."""
    return _base(
        "price", "price", active=True, currency="usd", unit_amount=int(asked["unit_amount"]), type="recurring",
        recurring={"interval": "month", "interval_count": 1, "usage_type": "licensed"}, product=an_id("prod"),
        lookup_key=asked.get("lookup_key"), billing_scheme="per_unit", nickname=None, tax_behavior="unspecified",
    )  # fmt: skip


def subscription(customer_id: str, priced: Object, metadata: Object) -> Object:
    """An active subscription of a customer to a price."""
    made = _base(
        "subscription", "sub", status="active", customer=customer_id, cancel_at_period_end=False, currency="usd",
        canceled_at=None, ended_at=None, start_date=int(time.time()), metadata=metadata, latest_invoice=None,
        collection_method="charge_automatically",
    )  # fmt: skip
    now = int(time.time())
    item = _base(
        "subscription_item", "si", price=priced, quantity=1, subscription=made["id"], current_period_start=now,
        current_period_end=now + MONTH_S,
    )  # fmt: skip
    return made | {"items": listed(f"/v1/subscription_items?subscription={made['id']}", [item])}


def invoice(owner: Object, paid: Object, reason: str) -> Object:
    """A paid invoice of a subscription's."""
    item = owner["items"]["data"][0]
    made = _base(
        "invoice", "in", status="paid", customer=owner["customer"], currency="usd", billing_reason=reason,
        amount_due=paid["amount"], amount_paid=paid["amount"], amount_remaining=0, total=paid["amount"],
        parent={"type": "subscription_details", "quote_details": None,
                "subscription_details": {"subscription": owner["id"], "metadata": owner["metadata"]}},
    )  # fmt: skip
    period = {"start": item["current_period_start"], "end": item["current_period_end"]}
    line = _base("line_item", "il", amount=paid["amount"], currency="usd", period=period, invoice=made["id"])
    payment = _base(
        "invoice_payment", "inpay", invoice=made["id"], status="paid", amount_paid=paid["amount"], is_default=True,
        payment={"type": "payment_intent", "payment_intent": paid["id"]},
    )  # fmt: skip
    return made | {
        "lines": listed(f"/v1/invoices/{made['id']}/lines", [line]),
        "payments": listed(f"/v1/invoice_payments?invoice={made['id']}", [payment]),
    }


def entry(kind: str, amount: int, source: Object) -> Object:
    """A balance transaction."""
    made = _base(
        "balance_transaction", "txn", type=kind, amount=amount, fee=0, net=amount, currency="usd", status="available",
        source=source["id"], available_on=int(time.time()), description=None, exchange_rate=None, fee_details=[],
        reporting_category=kind, balance_type="payments",
    )  # fmt: skip
    source["balance_transaction"] = made["id"]
    return made


def event(kind: str, about: Object) -> Object:
    """Something that happened to an object."""
    shown = {name: value for name, value in about.items() if not name.startswith("_")}
    return _base(
        "event", "evt", type=kind, api_version=API_VERSION, data={"object": shown}, pending_webhooks=1,
        request={"id": None, "idempotency_key": None},
    )  # fmt: skip
