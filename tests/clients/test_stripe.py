"""The fake of Stripe, held against Stripe's own client: its objects are as the client's types say, member by member."""

from __future__ import annotations

import builtins
import sys
import types
import typing
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pytest
import stripe

from local import stripe_objects as objects

CARD = objects.card("cus_1", "a-card")
INTENT = {**objects.intent({"amount": 500, "customer": "cus_1"}), "latest_charge": "ch_1"}
SUBSCRIPTION = objects.subscription("cus_1", objects.price({"unit_amount": 2000}), {})
INVOICE = objects.invoice(SUBSCRIPTION, INTENT, "subscription_create")
CHARGE = objects.charge(INTENT, CARD)
MADE = {
    stripe.Customer: objects.customer({"email": "ada@example.com"}),
    stripe.PaymentMethod: CARD,
    stripe.checkout.Session: objects.session({"mode": "payment", "customer": "cus_1"}, "http://127.0.0.1"),
    stripe.PaymentIntent: INTENT,
    stripe.Charge: CHARGE,
    stripe.Refund: objects.refund(INTENT, 5, {}),
    stripe.Dispute: objects.dispute(INTENT, 5, "needs_response"),
    stripe.Price: objects.price({"unit_amount": 2000, "lookup_key": "x"}),
    stripe.Subscription: SUBSCRIPTION,
    stripe.Invoice: INVOICE,
    stripe.InvoiceLineItem: INVOICE["lines"]["data"][0],
    stripe.InvoicePayment: INVOICE["payments"]["data"][0],
    stripe.SubscriptionItem: SUBSCRIPTION["items"]["data"][0],
    stripe.BalanceTransaction: objects.entry("charge", 5, dict(CHARGE)),
    stripe.Event: objects.event("payment_intent.succeeded", INTENT),
}


class Names(dict[str, Any]):
    """What names mean in a class's annotations; what the client imports for type checkers only is of any type."""

    def __init__(self, kind: Any) -> None:
        super().__init__()
        self.places = (vars(sys.modules[kind.__module__]), vars(builtins), vars(typing), vars(stripe))

    def __missing__(self, name: str) -> Any:
        return next((place[name] for place in self.places if name in place), Any)


def misfits(value: Any, hint: Any, place: str) -> list[str]:
    """Where a value is not of a type of the client's."""
    origin = get_origin(hint)
    if origin in (Union, types.UnionType):
        kinds = get_args(hint)
        # a list of words, and `str` for words of the future: today's are meant
        closed = [each for each in kinds if each is not str] if any(get_origin(x) is Literal for x in kinds) else kinds
        return min((misfits(value, each, place) for each in closed), key=len)
    if origin is list and isinstance(value, list):
        return [each for part in value for each in misfits(part, get_args(hint)[0], f"{place}[]")]
    if isinstance(value, dict) and hint is not Any:
        return _members(value, origin or hint, place)
    fits = hint is Any or (value in get_args(hint) if origin is Literal else type(value) is hint)
    return [] if fits else [f"{place}: {value!r} is no {hint}"]


def _members(value: dict[str, Any], kind: Any, place: str) -> list[str]:
    if not (isinstance(kind, type) and issubclass(kind, stripe.StripeObject)):
        return [] if kind is dict else [f"{place}: an object is no {kind}"]
    hints = get_type_hints(kind, localns=Names(kind))
    if kind is stripe.ListObject or kind.__name__ == "UntypedStripeObject":
        return []
    unknown = [f"{place}.{name}" for name in value if name not in hints and not name.startswith("_")]
    known = [name for name in value if name in hints]
    return unknown + [each for name in known for each in misfits(value[name], hints[name], f"{place}.{name}")]


@pytest.mark.parametrize("kind", MADE, ids=lambda kind: kind.OBJECT_NAME)
def test_an_object_is_as_the_official_client_has_it(kind: Any):
    assert MADE[kind]["object"] == kind.OBJECT_NAME
    assert _members(MADE[kind], kind, kind.OBJECT_NAME) == []


def test_a_member_that_stripe_does_not_have_is_seen():
    assert _members({**INTENT, "amount_paid": 5}, stripe.PaymentIntent, "x") == ["x.amount_paid"]
    assert _members({**INTENT, "status": "paid"}, stripe.PaymentIntent, "x")[0].startswith("x.status: 'paid'")
    assert _members({**INTENT, "amount": "5"}, stripe.PaymentIntent, "x") != []
