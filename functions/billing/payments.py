"""Payments by Stripe: what can be bought, paying, what was paid, and giving it back."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Header, Response
from pydantic import AfterValidator, Field, StringConstraints

from gateway import payments
from gateway.errors import Conflict, InvalidRequest, NotFound
from gateway.http.app import json_answer
from gateway.http.body import Body, Cursor, Id, Limit, Line, StrictRoute
from gateway.http.caller import Caller, require
from gateway.payments import CENT_NANO, LEAST_CENTS, MOST_CENTS
from gateway.scopes import Scope
from gateway.settings import settings

router = APIRouter(route_class=StrictRoute)
Reader = Annotated[Caller, Depends(require(Scope.ACCOUNT_READ))]
Payer = Annotated[Caller, Depends(require(Scope.ACCOUNT_WRITE))]
Operator = Annotated[Caller, Depends(require(Scope.ADMIN_CREDITS))]
type Key = Annotated[str | None, Header(alias="idempotency-key", pattern=r"^[ -~]{1,200}$")]
type StripeId = Annotated[str, StringConstraints(pattern=r"^[a-z]{2,3}_[A-Za-z0-9_]{1,250}$")]


def _return_address(text: str) -> str:
    """An address of ours: whoever pays is not sent to a stranger's page afterwards."""
    address = urlsplit(text)
    own = (urlsplit(settings.public_url).hostname, *settings.return_hosts)
    if address.scheme not in ("https", "http") or address.hostname not in own or "@" in address.netloc:
        raise ValueError("must lead to a host of this gateway (PUBLIC_URL, RETURN_HOSTS)")
    return text


type ReturnAddress = Annotated[str, StringConstraints(max_length=1000), AfterValidator(_return_address)]


class Purchase(Body):
    """What is bought: a package, or an amount. `amount` is dollars; the alias `/checkout-session` takes it as cents."""

    package_id: Line | None = None
    amount_cents: Annotated[int, Field(ge=LEAST_CENTS, le=MOST_CENTS)] | None = None
    amount: Annotated[Decimal, Field(strict=False, ge=0, le=10**9)] | None = None
    currency: Literal["usd", "USD"] = "usd"
    save_card: bool = False


class Checkout(Purchase):
    success_url: ReturnAddress | None = None
    cancel_url: ReturnAddress | None = None


class Refund(Body):
    payment_intent_id: StripeId
    amount: Annotated[int, Field(ge=1, le=MOST_CENTS)] | None = None
    reason: Line | None = None
    force: bool = False


async def _price(body: Purchase, *, in_cents: bool) -> tuple[int, int]:
    """What a purchase costs in cents, and what it credits in nano-dollars: we say, and never the client."""
    given = [each for each in (body.package_id, body.amount_cents, body.amount) if each is not None]
    if len(given) != 1:
        raise InvalidRequest("Send one of package_id, amount_cents and amount.", param="amount")
    if body.package_id is not None:
        for each in await payments.packages():
            if each["id"] == body.package_id:
                return each["amount_cents"], each["credit_nano"]
        raise NotFound("There is no such package.", param="package_id")
    cents = body.amount_cents if body.amount is None else body.amount * (1 if in_cents else 100)
    assert cents is not None, "one of them was given"
    if cents != int(cents) or not LEAST_CENTS <= cents <= MOST_CENTS:
        raise InvalidRequest(f"A payment is ${LEAST_CENTS // 100} to ${MOST_CENTS // 100}.", param="amount")
    return int(cents), int(cents) * CENT_NANO


def _fingerprint(body: Body) -> str:
    return hashlib.sha256(body.model_dump_json().encode()).hexdigest()


async def _checkout(body: Checkout, caller: Caller, key: str | None, *, in_cents: bool) -> Response:
    cents, credit_nano = await _price(body, in_cents=in_cents)
    page = {
        "success_url": body.success_url or f"{settings.public_url}/?payment=success",
        "cancel_url": body.cancel_url or f"{settings.public_url}/?payment=canceled",
        "save_card": body.save_card,
    }
    opened = await payments.open_checkout(
        caller.actor(), caller.user_id, cents, credit_nano, key=key, fingerprint=_fingerprint(body), page=page
    )
    return json_answer({"success": True, **opened})


@router.post("/api/stripe/checkout")
async def create_checkout(body: Checkout, caller: Payer, key: Key = None) -> Response:
    """Open a payment and Stripe's page for it."""
    return await _checkout(body, caller, key, in_cents=False)


@router.post("/api/stripe/checkout-session")
async def create_checkout_session(body: Checkout, caller: Payer, key: Key = None) -> Response:
    """Open a payment and Stripe's page for it; `amount` is cents here."""
    return await _checkout(body, caller, key, in_cents=True)


@router.post("/api/stripe/payment-intent")
async def create_payment_intent(body: Purchase, caller: Payer, key: Key = None) -> Response:
    """Open a payment that a page of your own confirms; `amount` is cents here."""
    cents, credit_nano = await _price(body, in_cents=True)
    opened = await payments.open_intent(
        caller.actor(), caller.user_id, cents, credit_nano,
        key=key, fingerprint=_fingerprint(body), save_card=body.save_card,
    )  # fmt: skip
    return json_answer({"success": True, **opened, "next_action": None})


@router.get("/api/stripe/credit-packages")
async def list_packages() -> Response:
    """List the amounts that are offered."""
    found = await payments.packages()
    return json_answer({"success": True, "packages": found, "data": found})


@router.get("/api/stripe/payments")
async def list_payments(caller: Reader, cursor: Cursor | None = None, limit: Limit = 50) -> Response:
    """List the user's payments, the last first."""
    page, following = await payments.listed(caller.user_id, cursor, limit)
    return json_answer({"success": True, "payments": page, "data": page, "next_cursor": following})


@router.get("/api/stripe/payments/{id}")
async def get_payment(id: Id, caller: Reader) -> Response:  # noqa: A002
    """Show one payment."""
    return await _shown(caller, await payments.find(payment_id=id))


@router.get("/api/stripe/checkout-session/{id}")
async def get_checkout_session(id: StripeId, caller: Reader) -> Response:  # noqa: A002
    """Show the payment of a checkout."""
    return await _shown(caller, await payments.find(session_id=id))


async def _shown(caller: Caller, found: dict[str, Any] | None) -> Response:
    """A payment of the caller's, as Stripe has it now: who comes back from paying waits for no event."""
    payment = await payments.of_user(caller.user_id, found)
    if payment["status"] == "pending" and (payment["session_id"] or payment["intent_id"]):
        payment = await payments.refresh(payment, caller.actor())
    return json_answer({"success": True, "payment": payments.shown(payment), **payments.shown(payment)})


@router.post("/api/stripe/refund")
async def refund(body: Refund, caller: Operator, key: Key = None) -> Response:
    """Give a payment back, whole or in part; once per Idempotency-Key, which has to be there."""
    if key is None:
        raise InvalidRequest("Send an Idempotency-Key: money goes back once for each.", param="Idempotency-Key")
    made = await payments.refund(caller.actor(), body.payment_intent_id, body.amount, force=body.force, key=key)
    if made["status"] == "failed":
        raise Conflict("Stripe could not make this refund.")
    return json_answer({"success": True, **made, "reason": body.reason, "timestamp": datetime.now(UTC)})
