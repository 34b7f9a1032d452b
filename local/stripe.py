"""Stripe, as far as we use it: customers, checkout and its page, payment intents, refunds, disputes, subscriptions, the
list of balance transactions, idempotency keys, and events that are signed and told to a webhook.

`make run` and the tests have it in Stripe's place; the official client is the only one that talks to it.
"""

from __future__ import annotations

import hashlib
import hmac
import html
import json
import re
import secrets
import time
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from local import stripe_objects as objects
from local.stripe_objects import Object

FINGERPRINT = "card-of-everybody"
PAGE = """<!doctype html><title>Checkout</title>
<body style="font-family: sans-serif; max-width: 30em; margin: 4em auto">
<h1>{what}</h1><p>This stands for Stripe's page. No money moves.</p><form method="post"><button>Pay</button></form>"""


def signature(secret: str, body: bytes, at: int | None = None) -> str:
    """The header Stripe-Signature of an event, from now or of `at` (https://docs.stripe.com/webhooks/signature)."""
    at = int(time.time()) if at is None else at
    digest = hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


class Refused(Exception):
    """An error of Stripe's: https://docs.stripe.com/error-codes."""

    def __init__(self, status: int, code: str, kind: str = "invalid_request_error") -> None:
        super().__init__(code)
        self.status, self.body = status, {"error": {"type": kind, "code": code, "message": f"A text about {code}."}}


class Stripe:
    """One account. `webhook` is where its events are told; without one they wait in `events`."""

    def __init__(self) -> None:
        self.key, self.webhook_secret = f"sk_test_{secrets.token_hex(12)}", f"whsec_{secrets.token_hex(16)}"
        self.address, self.webhook = "", ""
        self.objects: dict[str, Object] = {}
        self.events: list[Object] = []
        self.declining: set[str] = set()
        """Customers whose cards say no."""
        self.is_down = False
        self._answers: dict[str | None, tuple[str, Object, int]] = {}
        self.app = Starlette(
            routes=[
                Route("/pay/{id}", self._page, methods=["GET", "POST"]),
                Route("/v1/{path:path}", self._api, methods=["GET", "POST", "DELETE"]),
            ]
        )
        self._calls: list[tuple[str, re.Pattern[str], Callable[..., Object]]] = [
            (method, re.compile(pattern), call)
            for method, pattern, call in (
                ("POST", "customers", self._make_customer),
                ("GET", "customers/([^/]+)/payment_methods", self._cards),
                ("DELETE", r"customers/(cus_\w+)", self._delete_customer),
                ("POST", "checkout/sessions", self._make_session),
                ("GET", r"checkout/sessions/(cs_\w+)", self._find),
                ("POST", r"checkout/sessions/(cs_\w+)/expire", self._expire),
                ("POST", "payment_intents", self._make_intent),
                ("GET", r"payment_intents/(pi_\w+)", self._find),
                ("POST", r"payment_intents/(pi_\w+)/confirm", self._confirm),
                ("POST", r"payment_intents/(pi_\w+)/cancel", self._cancel),
                ("POST", "refunds", self._make_refund),
                ("GET", "(refunds|disputes|prices|balance_transactions|checkout/sessions)", self._list),
                ("POST", "prices", self._make_price),
                ("GET", r"(?:subscriptions|invoices)/(\w+)", self._find),
                ("POST", r"subscriptions/(sub_\w+)", self._change_subscription),
                ("DELETE", r"subscriptions/(sub_\w+)", self._cancel_subscription),
                ("POST", "billing_portal/sessions", self._make_portal),
            )
        ]

    def settings(self) -> dict[str, str]:
        """The settings of a gateway that is paid here."""
        return {
            "STRIPE_SECRET_KEY": self.key,
            "STRIPE_WEBHOOK_SECRET": self.webhook_secret,
            "STRIPE_BASE_URL": self.address,
        }

    # ---------------------------------------------------------------------------------------------- what people do

    def pay(self, session_id: str, fingerprint: str = FINGERPRINT) -> Object:
        """Somebody pays on a checkout's page; returns the intent."""
        session = self.objects[session_id]
        asked = session["_asked"]
        item = asked["line_items"][0]
        priced = self.objects.get(item.get("price", ""))
        amount = priced["unit_amount"] if priced else int(item["price_data"]["unit_amount"])
        intent = self._keep(
            objects.intent({"amount": amount, "customer": session["customer"], **asked.get("payment_intent_data", {})})
        )
        self._succeed(intent, self._card(session["customer"], fingerprint))
        session |= {
            "status": "complete",
            "payment_status": "paid",
            "payment_intent": intent["id"],
            "amount_total": amount,
        }
        if session["mode"] == "subscription":
            self._start(session, intent, priced or {})
        self.tell("checkout.session.completed", session)
        return intent

    def dispute(self, intent_id: str, amount: int | None = None, status: str = "needs_response") -> Object:
        """A card's owner disputes a payment."""
        intent = self.objects[intent_id]
        made = self._keep(objects.dispute(intent, amount or intent["amount"], status))
        self.objects[intent["latest_charge"]]["disputed"] = True
        self._keep(objects.entry("adjustment", -made["amount"], made))
        self.tell("charge.dispute.created", made)
        return made

    def close(self, dispute_id: str, status: str) -> None:
        """A dispute is `won` or `lost`."""
        disputed = self.objects[dispute_id]
        disputed["status"] = status
        self.tell("charge.dispute.closed", disputed)

    def fail_refund(self, refund_id: str) -> None:
        """A refund comes back from the card's bank."""
        self.objects[refund_id]["status"] = "failed"
        self.tell("refund.failed", self.objects[refund_id])

    def renew(self, subscription_id: str) -> Object:
        """A subscription's next period begins and is paid; returns the invoice."""
        owner = self.objects[subscription_id]
        item = owner["items"]["data"][0]
        item["current_period_start"] = item["current_period_end"]
        item["current_period_end"] += objects.MONTH_S
        intent = self._keep(objects.intent({"amount": item["price"]["unit_amount"], "customer": owner["customer"]}))
        self._succeed(intent, self._card(owner["customer"], FINGERPRINT))
        return self._invoice(owner, intent, "subscription_cycle")

    def end(self, subscription_id: str) -> None:
        """A subscription is over."""
        owner = self.objects[subscription_id]
        owner["status"] = "canceled"
        self.tell("customer.subscription.deleted", owner)

    # ---------------------------------------------------------------------------------------------- events

    def tell(self, kind: str, about: Object) -> None:
        """Something happened to an object."""
        self.events.append(objects.event(kind, about))

    def signed(self, event: Object, at: int | None = None) -> tuple[bytes, dict[str, str]]:
        """An event's body and headers."""
        body = json.dumps(event).encode()
        return body, {"stripe-signature": signature(self.webhook_secret, body, at), "content-type": "application/json"}

    async def deliver(self) -> None:
        """Tell the webhook what waits; what it does not take waits on."""
        async with httpx.AsyncClient(trust_env=False) as client:
            for event in list(self.events):
                body, headers = self.signed(event)
                response = await client.post(self.webhook, content=body, headers=headers)
                if response.is_success:
                    self.events.remove(event)

    # ---------------------------------------------------------------------------------------------- HTTP

    async def _page(self, request: Request) -> Response:
        session = self.objects.get(request.path_params["id"])
        if session is None or session["status"] != "open":
            return HTMLResponse("This checkout is over.", 410)
        if request.method == "GET":
            item = session["_asked"]["line_items"][0]
            what = item["price_data"]["product_data"]["name"] if "price_data" in item else "A subscription"
            return HTMLResponse(PAGE.format(what=html.escape(what)))
        self.pay(session["id"])
        if self.webhook:
            await self.deliver()
        return RedirectResponse(session["success_url"], 303)

    async def _api(self, request: Request) -> Response:
        raw = (await request.body()).decode()
        named = request.headers.get("idempotency-key") if request.method == "POST" else None
        try:
            self._admit(request.headers.get("authorization"), named, raw)
            if named in self._answers:
                return JSONResponse(*self._answers[named][1:])
            asked = _nested(raw if request.method == "POST" else request.url.query)
            answer, status = self._answer(request.method, request.path_params["path"], asked), 200
        except Refused as refused:
            answer, status = refused.body, refused.status
        if named and status < 500:
            self._answers[named] = (raw, json.loads(json.dumps(answer)), status)
        return JSONResponse(answer, status, {"request-id": objects.an_id("req")})

    def _admit(self, authorization: str | None, named: str | None, raw: str) -> None:
        """Raises Refused for a caller without the key, and for an idempotency key that stands for something else."""
        if self.is_down:
            raise Refused(500, "api_down", "api_error")
        if authorization != f"Bearer {self.key}":
            raise Refused(401, "invalid_api_key")
        if named in self._answers and self._answers[named][0] != raw:
            raise Refused(400, "idempotency_key_in_use", "idempotency_error")

    def _answer(self, method: str, path: str, asked: Object) -> Object:
        for known, pattern, call in self._calls:
            if known == method and (found := pattern.fullmatch(path)):
                answer = call(asked, *found.groups())
                return {name: value for name, value in answer.items() if not name.startswith("_")}
        raise Refused(404, "url_invalid")

    # ---------------------------------------------------------------------------------------------- calls

    def _keep(self, made: Object) -> Object:
        self.objects[made["id"]] = made
        return made

    def _of(self, kind: str) -> list[Object]:
        """The objects of a kind, the last first."""
        return [each for each in reversed(self.objects.values()) if each["object"] == kind]

    def _find(self, asked: Object, identifier: str) -> Object:
        if (found := self.objects.get(identifier)) is None:
            raise Refused(404, "resource_missing")
        shown = dict(found)
        for name in asked.get("expand", []):
            if isinstance(shown.get(name), str):
                shown[name] = self.objects[shown[name]]
        return shown

    def _list(self, asked: Object, path: str) -> Object:
        kinds = {"refunds": "refund", "disputes": "dispute", "prices": "price", "checkout/sessions": "checkout.session"}
        found = self._of(kinds.get(path, "balance_transaction"))
        if "customer" in asked:
            found = [each for each in found if each["customer"] == asked["customer"]]
        if "payment_intent" in asked:
            found = [each for each in found if each["payment_intent"] == asked["payment_intent"]]
        if "lookup_keys" in asked:
            found = [each for each in found if each["lookup_key"] in asked["lookup_keys"]]
        if "created" in asked:
            least, most = int(asked["created"]["gte"]), int(asked["created"]["lte"])
            found = [each for each in found if least <= each["created"] <= most]
        if "data.source" in asked.get("expand", []):
            found = [{**each, "source": self.objects[each["source"]]} for each in found]
        ids = [each["id"] for each in found]
        start = ids.index(asked["starting_after"]) + 1 if "starting_after" in asked else 0
        limit = int(asked.get("limit", 10))
        return objects.listed(f"/v1/{path}", found[start : start + limit], has_more=len(found) > start + limit)

    def _make_customer(self, asked: Object) -> Object:
        return self._keep(objects.customer(asked))

    def _delete_customer(self, _asked: Object, customer_id: str) -> Object:
        self._find({}, customer_id)
        for each in [each for each in self.objects.values() if each.get("customer") == customer_id]:
            if each["object"] == "subscription" and each["status"] != "canceled":
                self.end(each["id"])
            elif each["object"] == "checkout.session" and each["status"] == "open":
                self._expire({}, each["id"])
            elif each["object"] == "payment_method":
                del self.objects[each["id"]]
        del self.objects[customer_id]
        return {"id": customer_id, "object": "customer", "deleted": True}

    def _cards(self, _asked: Object, customer_id: str) -> Object:
        saved = [each for each in self._of("payment_method") if each["customer"] == customer_id]
        return objects.listed(f"/v1/customers/{customer_id}/payment_methods", saved[:1])

    def _card(self, customer_id: str | None, fingerprint: str) -> Object:
        known = (
            each for each in self._of("payment_method")
            if (each["customer"], each["card"]["fingerprint"]) == (customer_id, fingerprint)
        )  # fmt: skip
        return next(known, None) or self._keep(objects.card(customer_id, fingerprint))

    def _make_session(self, asked: Object) -> Object:
        return self._keep(objects.session(asked, self.address))

    def _expire(self, _asked: Object, session_id: str) -> Object:
        session = self.objects[session_id]
        session["status"] = "expired"
        self.tell("checkout.session.expired", session)
        return session

    def _make_intent(self, asked: Object) -> Object:
        return self._keep(objects.intent(asked))

    def _confirm(self, _asked: Object, intent_id: str) -> Object:
        intent = self.objects[intent_id]
        if intent["customer"] in self.declining:
            intent["status"] = "requires_payment_method"
            self.tell("payment_intent.payment_failed", intent)
            raise Refused(402, "card_declined", "card_error")
        self._succeed(intent, self.objects[intent["payment_method"]])
        return intent

    def _cancel(self, _asked: Object, intent_id: str) -> Object:
        intent = self.objects[intent_id]
        if intent["status"] in ("succeeded", "canceled"):
            raise Refused(400, "payment_intent_unexpected_state")
        intent["status"] = "canceled"
        self.tell("payment_intent.canceled", intent)
        return intent

    def _succeed(self, intent: Object, method: Object) -> None:
        charge = self._keep(objects.charge(intent, method))
        self._keep(objects.entry("charge", intent["amount"], charge))
        intent |= {
            "status": "succeeded", "amount_received": intent["amount"], "latest_charge": charge["id"],
            "payment_method": method["id"],
        }  # fmt: skip
        self.tell("charge.succeeded", charge)
        self.tell("payment_intent.succeeded", intent)

    def _make_refund(self, asked: Object) -> Object:
        intent = self.objects[asked["payment_intent"]]
        charge = self.objects[intent["latest_charge"]]
        left = charge["amount"] - charge["amount_refunded"]
        amount = int(asked.get("amount", left))
        if amount > left:
            raise Refused(400, "charge_already_refunded")
        made = self._keep(objects.refund(intent, amount, asked.get("metadata", {})))
        charge["amount_refunded"] += amount
        charge["refunded"] = charge["amount_refunded"] == charge["amount"]
        self._keep(objects.entry("refund", -amount, made))
        self.tell("refund.created", made)
        self.tell("charge.refunded", charge)
        return made

    def _make_price(self, asked: Object) -> Object:
        return self._keep(objects.price(asked))

    def _start(self, session: Object, intent: Object, priced: Object) -> None:
        metadata = session["_asked"].get("subscription_data", {}).get("metadata", {})
        owner = self._keep(objects.subscription(session["customer"], priced, metadata))
        session |= {"subscription": owner["id"], "payment_intent": None}
        self.tell("customer.subscription.created", owner)
        self._invoice(owner, intent, "subscription_create")

    def _invoice(self, owner: Object, intent: Object, reason: str) -> Object:
        made = self._keep(objects.invoice(owner, intent, reason))
        owner["latest_invoice"] = made["id"]
        self.tell("invoice.paid", made)
        return made

    def _change_subscription(self, asked: Object, subscription_id: str) -> Object:
        owner = self.objects[subscription_id]
        owner["metadata"] = owner["metadata"] | asked.get("metadata", {})
        if "cancel_at_period_end" in asked:
            owner["cancel_at_period_end"] = asked["cancel_at_period_end"] == "true"
        for item in asked.get("items", []):
            owner["items"]["data"][0]["price"] = self.objects[item["price"]]
        self.tell("customer.subscription.updated", owner)
        return owner

    def _cancel_subscription(self, _asked: Object, subscription_id: str) -> Object:
        self.end(subscription_id)
        return self.objects[subscription_id]

    def _make_portal(self, asked: Object) -> Object:
        return {
            "id": objects.an_id("bps"),
            "object": "billing_portal.session",
            "url": f"{self.address}/portal",
            **asked,
        }


def _nested(encoded: str) -> Object:
    """`a[b][0]=c` as {"a": {"b": ["c"]}}: how Stripe's clients write a body."""
    whole: Object = {}
    for name, value in parse_qsl(encoded, keep_blank_values=True):
        steps = re.findall(r"[^\[\]]+", name)
        here = whole
        for step in steps[:-1]:
            here = here.setdefault(step, {})
        here[steps[-1]] = value
    return dict(_lists(whole))


def _lists(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    if value and all(name.isdigit() for name in value):
        return [_lists(value[name]) for name in sorted(value, key=int)]
    return {name: _lists(member) for name, member in value.items()}
