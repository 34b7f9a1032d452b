"""Paying by Stripe: we say what is credited, Stripe whether it was paid; it counts once, however often it is told."""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

import pytest

from gateway import payments, stripe_events
from gateway.money import NANO
from tests.functions.test_errors import error_of

if TYPE_CHECKING:
    import httpx

    from local.stripe import Stripe
    from tests.conftest import Chance
    from tests.harness.gateway import InProcess

START = 100 * NANO
CHECKOUT = "/api/stripe/checkout"


async def post(gateway: InProcess, path: str, body: Any, key: str | None = None, **headers: str) -> httpx.Response:
    sent = gateway.headers({name.replace("_", "-"): value for name, value in headers.items()}, key)
    return await gateway.client.post(path, headers=sent, json=body)


async def bought(gateway: InProcess, stripe: Stripe, dollars: int = 10, fingerprint: str = "a-card") -> dict[str, Any]:
    """A checkout that was paid; its events wait to be delivered."""
    response = await post(gateway, CHECKOUT, {"amount": dollars})
    assert response.status_code == 200, response.text
    opened: dict[str, Any] = response.json()
    return {**opened, "intent": stripe.pay(opened["session_id"], fingerprint)["id"]}


async def delivered(stripe: Stripe) -> None:
    await stripe.deliver()
    assert stripe.events == []


# ------------------------------------------------------------------------------------------------ paying


async def test_a_checkout_that_is_paid_is_credited_once(gateway: InProcess, stripe: Stripe):
    opened = await bought(gateway, stripe)
    assert (opened["status"], opened["amount_cents"], opened["credits_usd"]) == ("pending", 1000, "10")
    assert opened["checkout_url"].startswith(stripe.address)
    assert await gateway.balance() == START
    await delivered(stripe)
    assert await gateway.balance() == START + 10 * NANO
    shown = (await gateway.client.get(f"/api/stripe/payments/{opened['payment_id']}", headers=gateway.headers())).json()
    assert (shown["status"], shown["payment_intent_id"]) == ("paid", opened["intent"])
    grants = (await gateway.client.get("/user/balance", headers=gateway.headers())).json()["grants"]
    assert [(grant["kind"], grant["remaining_usd"]) for grant in grants] == [("promotional", "100"), ("paid", "10")]
    events = await gateway.rows("select event from gateway.outbox where event like 'payment.%'")
    assert [row["event"] for row in events] == ["payment.paid"]


async def test_who_comes_back_from_paying_waits_for_no_event(gateway: InProcess, stripe: Stripe):
    opened = await bought(gateway, stripe)
    path = f"/api/stripe/checkout-session/{opened['session_id']}"
    assert (await gateway.client.get(path, headers=gateway.headers())).json()["status"] == "paid"
    assert await gateway.balance() == START + 10 * NANO
    await delivered(stripe)
    assert await gateway.balance() == START + 10 * NANO


async def test_an_intent_of_a_page_of_ones_own_is_credited(gateway: InProcess, stripe: Stripe):
    opened = (await post(gateway, "/api/stripe/payment-intent", {"amount": 2550})).json()
    assert opened["client_secret"].startswith(opened["payment_intent_id"])
    intent = stripe.objects[opened["payment_intent_id"]]
    stripe._succeed(intent, stripe._card(intent["customer"], "a-card"))
    await delivered(stripe)
    assert await gateway.balance() == START + 2550 * payments.CENT_NANO


async def test_a_package_is_what_the_operator_says(gateway: InProcess, stripe: Stripe):
    await gateway.books.execute("update gateway.credit_packages set credit_nano = 27000000000 where id = 'plus'")
    listed = (await gateway.client.get("/api/stripe/credit-packages")).json()["packages"]
    assert [(each["id"], each["amount_cents"], each["credits_usd"]) for each in listed][1] == ("plus", 2500, "27")
    opened = (await post(gateway, CHECKOUT, {"package_id": "plus"})).json()
    stripe.pay(opened["session_id"])
    await delivered(stripe)
    assert await gateway.balance() == START + 27 * NANO


async def test_each_event_five_times_shuffled_from_four_at_once_is_credited_once(
    gateway: InProcess, stripe: Stripe, chance: Chance
):
    """Half of them before we have written down under which ids Stripe has the payment."""
    opened = await bought(gateway, stripe)
    await gateway.books.execute("update gateway.payments set session_id = null, intent_id = null")
    signed = [stripe.signed(event) for event in stripe.events] * 5
    chance.shuffle(signed)

    async def deliver(part: list[tuple[bytes, dict[str, str]]]) -> list[int]:
        answers = [
            await gateway.client.post("/api/stripe/webhook", content=body, headers=headers) for body, headers in part
        ]
        return [answer.status_code for answer in answers]

    half = len(signed) // 2
    first = await asyncio.gather(*(deliver(signed[at:half:4]) for at in range(4)))
    await gateway.books.execute("update gateway.payments set session_id = $1", opened["session_id"])
    second = await asyncio.gather(*(deliver(signed[half + at :: 4]) for at in range(4)))
    assert set(itertools.chain(*first, *second)) <= {200, 409}
    await stripe_events.work_due()
    assert await gateway.balance() == START + 10 * NANO
    assert await gateway.books.fetchval("select count(*) from gateway.credit_grants where kind = 'paid'") == 1


async def test_what_is_repeated_with_its_key_is_one_payment(gateway: InProcess, stripe: Stripe):
    first, second = [(await post(gateway, CHECKOUT, {"amount": 10}, idempotency_key="k")).json() for _ in range(2)]
    assert first == second
    error_of(await post(gateway, CHECKOUT, {"amount": 11}, idempotency_key="k"), 422, "idempotency_key_reused")
    assert await gateway.books.fetchval("select count(*) from gateway.payments") == 1
    assert len(stripe._of("checkout.session")) == 1


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"amount": 4.99}, 400),
        ({"amount": 2500.01}, 400),
        ({"amount": "10.001"}, 400),
        ({"amount": -10}, 422),
        ({"amount": 10, "amount_cents": 1000}, 400),
        ({}, 400),
        ({"package_id": "nothing"}, 404),
        ({"amount": 10, "currency": "jpy"}, 422),
        ({"amount": 10, "success_url": "https://evil.example/"}, 422),
        ({"amount": 10, "success_url": "http://localhost@evil.example/"}, 422),
        ({"amount": 10, "metadata": {"credits": 1000}}, 422),
        ({"amount": True}, 422),
        ({"amount": "NaN"}, 422),
    ],
    ids=str,
)
async def test_what_cannot_be_bought_changes_nothing(
    gateway: InProcess, stripe: Stripe, body: dict[str, Any], status: int
):
    before = await gateway.tables()
    assert (await post(gateway, CHECKOUT, body)).status_code == status
    assert await gateway.tables() == before
    assert stripe.objects == {}


async def test_an_amount_that_is_not_ours_is_never_credited(gateway: InProcess, stripe: Stripe):
    opened = (await post(gateway, CHECKOUT, {"amount": 10})).json()
    stripe.objects[opened["session_id"]]["_asked"]["line_items"][0]["price_data"]["unit_amount"] = "1"
    stripe.pay(opened["session_id"])
    await delivered(stripe)
    assert await gateway.balance() == START
    assert (await gateway.rows("select status from gateway.payments")) == [{"status": "disagreeing"}]
    assert (await gateway.rows("select kind from gateway.alerts")) == [{"kind": "payment_disagrees"}]


async def test_another_users_payment_is_as_if_it_were_not(gateway: InProcess, stripe: Stripe):
    opened = await bought(gateway, stripe)
    stranger = await gateway.customer(0)
    for path in (f"payments/{opened['payment_id']}", f"checkout-session/{opened['session_id']}", "payments/999999"):
        response = await gateway.client.get(f"/api/stripe/{path}", headers=gateway.headers(key=stranger))
        error_of(response, 404, "not_found")
    listed = await gateway.client.get("/api/stripe/payments", headers=gateway.headers(key=stranger))
    assert listed.json()["payments"] == []


async def test_a_checkout_that_expires_is_canceled(gateway: InProcess, stripe: Stripe):
    opened = (await post(gateway, CHECKOUT, {"amount": 10})).json()
    stripe._expire({}, opened["session_id"])
    await delivered(stripe)
    assert (await gateway.rows("select status from gateway.payments")) == [{"status": "canceled"}]
    assert await gateway.balance() == START


# ------------------------------------------------------------------------------------------------ the saved card


async def a_saved_card(gateway: InProcess, stripe: Stripe) -> None:
    await gateway.customer(0)
    opened = (await post(gateway, CHECKOUT, {"amount": 5, "save_card": True})).json()
    stripe.pay(opened["session_id"])
    await delivered(stripe)


async def set_top_up(gateway: InProcess, threshold: str = "6", cents: int = 2000) -> httpx.Response:
    body = {"threshold_usd": threshold, "amount_cents": cents}
    return await gateway.client.put("/user/auto-top-up", headers=gateway.headers(), json=body)


async def test_a_balance_that_falls_low_is_topped_up_once(gateway: InProcess, stripe: Stripe):
    error_of(await set_top_up(gateway), 409, "no_saved_card")
    await a_saved_card(gateway, stripe)
    assert (await set_top_up(gateway)).json()["auto_top_up"]["is_on"]
    answers = await asyncio.gather(*(payments.top_up() for _ in range(4)))
    assert sum(answer["paid"] for answer in answers) == 1
    assert await gateway.balance() == 25 * NANO
    assert (await payments.top_up())["opened"] == 0
    await delivered(stripe)
    assert await gateway.balance() == 25 * NANO
    assert (await gateway.client.delete("/user/auto-top-up", headers=gateway.headers())).status_code == 200
    shown = await gateway.client.get("/user/auto-top-up", headers=gateway.headers())
    assert shown.json()["auto_top_up"] is None


async def test_a_card_that_says_no_three_times_is_left_alone(gateway: InProcess, stripe: Stripe):
    await a_saved_card(gateway, stripe)
    await set_top_up(gateway)
    customer = await gateway.books.fetchval(
        "select stripe_customer_id from gateway.users where id = $1", gateway.user_id
    )
    stripe.declining.add(customer)
    for left in (True, True, False):
        assert await payments.top_up() == {"opened": 1, "paid": 0}
        shown = await gateway.client.get("/user/auto-top-up", headers=gateway.headers())
        assert shown.json()["auto_top_up"]["is_on"] == left
        await gateway.books.execute("update gateway.auto_top_ups set last_at = last_at - interval '11 minutes'")
    assert (await payments.top_up())["opened"] == 0
    assert await gateway.balance() == 5 * NANO


async def test_the_portal_is_the_customers_own(gateway: InProcess, stripe: Stripe):
    first = (await post(gateway, "/api/stripe/portal", {})).json()
    assert first["url"].startswith(stripe.address)
    await post(gateway, "/api/stripe/portal", {})
    assert len(stripe._of("customer")) == 1
