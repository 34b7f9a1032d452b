"""The end of an account ends what Stripe has of it; one live subscription a user, one open checkout of a plan."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tests.functions.test_errors import error_of
from tests.functions.test_offers import a_plan, ask, told
from tests.functions.test_payments import START, delivered

if TYPE_CHECKING:
    from local.stripe import Stripe
    from tests.harness.gateway import InProcess

END = {"confirmation": "developer"}


async def subscribed(gateway: InProcess, stripe: Stripe) -> dict[str, Any]:
    """The customer has a plan that was paid for: the subscription at Stripe."""
    plan_id = await a_plan(gateway, monthly_price_cents=2000, monthly_credits=25)
    chosen = await told(gateway, "POST", "/user/plan", {"plan_id": plan_id})
    stripe.pay(chosen["checkout_url"].rpartition("/")[2])
    await delivered(stripe)
    return dict(stripe._of("subscription")[0])


async def test_what_stripe_has_of_an_account_ends_with_it(gateway: InProcess, stripe: Stripe):
    owner = await subscribed(gateway, stripe)
    await told(gateway, "PUT", "/user/auto-top-up", {"threshold_usd": 5, "amount_cents": 2000})
    assert (await ask(gateway, "DELETE", "/user", END)).status_code == 200
    assert stripe.objects[owner["id"]]["status"] == "canceled"
    assert [
        each["object"] for each in stripe.objects.values() if each["object"] in ("customer", "payment_method")
    ] == []
    await delivered(stripe)
    assert await gateway.rows("select status from gateway.subscriptions") == [{"status": "canceled"}]
    assert await gateway.rows("select 1 from gateway.auto_top_ups") == []
    left = await gateway.rows("select status, stripe_customer_id from gateway.users where id = $1", gateway.user_id)
    assert left == [{"status": "deleted", "stripe_customer_id": None}]


async def test_an_account_does_not_end_while_stripe_is_away(gateway: InProcess, stripe: Stripe):
    owner = await subscribed(gateway, stripe)
    before = await gateway.tables()
    stripe.is_down = True
    error_of(await ask(gateway, "DELETE", "/user", END), 503, "payments_unavailable")
    assert await gateway.tables() == before
    stripe.is_down = False
    del stripe.objects[owner["customer"]]  # and where the first answer was lost
    assert (await ask(gateway, "DELETE", "/user", END)).status_code == 200


async def test_the_last_admin_keeps_what_stripe_has(gateway: InProcess, stripe: Stripe):
    await subscribed(gateway, stripe)
    await gateway.books.execute(
        "update gateway.users set role = case id when $1 then 'admin' else 'user' end", gateway.user_id
    )
    error_of(await ask(gateway, "DELETE", "/user", END), 409, "conflict")
    assert stripe._of("subscription")[0]["status"] == "active"


async def test_a_plan_has_one_open_checkout(gateway: InProcess, stripe: Stripe):
    one = await a_plan(gateway, monthly_price_cents=2000, monthly_credits=25)
    first = (await told(gateway, "POST", "/user/plan", {"plan_id": one}))["checkout_url"]
    assert (await told(gateway, "POST", "/user/plan", {"plan_id": one}))["checkout_url"] == first
    other = await a_plan(gateway, name="max", monthly_price_cents=9000, monthly_credits=99)
    assert (await told(gateway, "POST", "/user/plan", {"plan_id": other}))["checkout_url"] != first
    assert [each["status"] for each in stripe._of("checkout.session")] == ["open", "expired"]


async def test_a_second_subscription_is_given_back(gateway: InProcess, stripe: Stripe):
    """Two pages of one plan were open, and both were paid."""
    owner = await subscribed(gateway, stripe)
    again = stripe._make_session(stripe._of("checkout.session")[0]["_asked"])
    intent = stripe.pay(again["id"])
    await stripe.deliver()
    await delivered(stripe)
    second = stripe._of("subscription")[0]
    assert (second["status"], stripe.objects[owner["id"]]["status"]) == ("canceled", "active")
    refunds = [(each["payment_intent"], each["amount"]) for each in stripe._of("refund")]
    assert refunds == [(intent["id"], 2000)]
    assert await gateway.balance() == START + 25_000_000_000
    alerts = await gateway.rows("select kind, subject, user_id from gateway.alerts")
    subject = f"subscription:{second['id']}"
    assert alerts == [{"kind": "unwanted_subscription", "subject": subject, "user_id": gateway.user_id}]
    assert (await told(gateway, "GET", "/user/plan"))["plan"]["plan_name"] == "pro"
    assert (await told(gateway, "DELETE", "/user/plan"))["cancel_at_period_end"]


async def test_a_subscription_of_an_account_that_ended_is_given_back(gateway: InProcess, stripe: Stripe):
    await subscribed(gateway, stripe)
    asked = stripe._of("checkout.session")[0]["_asked"]
    await ask(gateway, "DELETE", "/user", END)
    intent = stripe.pay(stripe._make_session(asked)["id"])
    await stripe.deliver()
    await delivered(stripe)
    assert stripe._of("subscription")[0]["status"] == "canceled"
    assert [each["payment_intent"] for each in stripe._of("refund")] == [intent["id"]]
