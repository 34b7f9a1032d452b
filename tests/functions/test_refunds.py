"""What was paid and goes back, and what breaks off: refunds, disputes, events that are late, forged or lost."""

from __future__ import annotations

import itertools
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from gateway import reconciliation, stripe_events
from gateway.money import NANO
from tests.architecture.functions import ended
from tests.functions.test_errors import error_of
from tests.functions.test_payments import CHECKOUT, START, bought, delivered, post

if TYPE_CHECKING:
    import httpx

    from local.stripe import Stripe
    from tests.conftest import Chance
    from tests.harness.gateway import InProcess


async def refund(gateway: InProcess, intent: str, key: str = "r", **body: Any) -> httpx.Response:
    wanted = {"payment_intent_id": intent, **body}
    return await post(gateway, "/api/stripe/refund", wanted, gateway.admin_key, idempotency_key=key)


# ------------------------------------------------------------------------------------------------ what goes back


async def test_a_refund_takes_back_what_it_returns(gateway: InProcess, stripe: Stripe):
    opened = await bought(gateway, stripe)
    await delivered(stripe)
    made = await refund(gateway, opened["intent"], amount=250)
    assert (made.status_code, made.json()["amount"], made.json()["status"]) == (200, 250, "succeeded")
    assert await gateway.balance() == START + 10 * NANO - 25 * NANO // 10
    again = await refund(gateway, opened["intent"], amount=250)
    assert again.json()["refund_id"] == made.json()["refund_id"]
    await delivered(stripe)
    assert await gateway.balance() == START + 10 * NANO - 25 * NANO // 10
    assert (await refund(gateway, opened["intent"], "rest")).status_code == 200
    assert await gateway.balance() == START
    error_of(await refund(gateway, opened["intent"], "more", amount=1), 409, "conflict")


async def test_what_was_spent_is_refunded_by_force_alone_and_the_balance_shows_it(gateway: InProcess, stripe: Stripe):
    await gateway.customer(0)
    opened = await bought(gateway, stripe)
    await delivered(stripe)
    await gateway.ask()
    await gateway.ended()
    spent = 10 * NANO - await gateway.balance()
    error_of(await refund(gateway, opened["intent"]), 409, "conflict")
    assert (await refund(gateway, opened["intent"], force=True)).status_code == 200
    assert await gateway.balance() == -spent
    error_of(await gateway.ask(), 402, "insufficient_credits")
    assert (await gateway.client.get("/user/balance", headers=gateway.headers())).status_code == 200
    await bought(gateway, stripe)
    await delivered(stripe)
    assert await gateway.balance() == 10 * NANO - spent
    assert (await gateway.ask()).status_code == 200


async def test_a_refund_that_fails_gives_the_credit_back(gateway: InProcess, stripe: Stripe):
    opened = await bought(gateway, stripe)
    await delivered(stripe)
    made = (await refund(gateway, opened["intent"], amount=400)).json()
    stripe.fail_refund(made["refund_id"])
    await delivered(stripe)
    assert await gateway.balance() == START + 10 * NANO


async def test_a_refund_needs_its_key_and_an_operator(gateway: InProcess, stripe: Stripe):
    opened = await bought(gateway, stripe)
    await delivered(stripe)
    body = {"payment_intent_id": opened["intent"]}
    error_of(await post(gateway, "/api/stripe/refund", body, gateway.admin_key), 400, "invalid_request_error")
    error_of(await post(gateway, "/api/stripe/refund", body, idempotency_key="x"), 403, "role_required")
    error_of(await refund(gateway, "pi_unknown"), 404, "not_found")


async def test_a_dispute_freezes_then_takes_or_lets_go(gateway: InProcess, stripe: Stripe):
    for outcome, expected in (("won", START + 10 * NANO), ("lost", START + 10 * NANO)):
        opened = await bought(gateway, stripe)
        await delivered(stripe)
        before = await gateway.balance()
        disputed = stripe.dispute(opened["intent"])
        await delivered(stripe)
        shown = (await gateway.client.get("/user/balance", headers=gateway.headers())).json()
        assert (shown["frozen_usd"], await gateway.balance()) == ("10", before)
        assert Decimal(shown["available_usd"]) * NANO == before - 10 * NANO
        stripe.close(disputed["id"], outcome)
        await delivered(stripe)
        shown = (await gateway.client.get("/user/balance", headers=gateway.headers())).json()
        assert shown["frozen_usd"] == "0"
        assert await gateway.balance() == expected


async def test_a_question_of_a_bank_freezes_nothing(gateway: InProcess, stripe: Stripe):
    opened = await bought(gateway, stripe)
    stripe.dispute(opened["intent"], status="warning_needs_response")
    await delivered(stripe)
    assert await gateway.books.fetchval("select sum(frozen_nano) from gateway.users") == 0


@pytest.mark.parametrize("seed", range(6))
async def test_refund_and_dispute_in_any_order_end_at_the_same_balance(
    gateway: InProcess, stripe: Stripe, seed: int, chance: Chance
):
    """And the events about them: shuffled, each three times."""
    opened = await bought(gateway, stripe)
    orders = list(itertools.permutations(["refund", "dispute", "lost"]))
    disputed: dict[str, Any] = {}
    for step in orders[seed]:
        if step == "refund":
            stripe._make_refund({"payment_intent": opened["intent"], "amount": "300"})
        elif step == "dispute" or not disputed:
            disputed = stripe.dispute(opened["intent"], 700)
        if step == "lost":
            stripe.close(disputed["id"], "lost")
    if disputed["status"] != "lost":
        stripe.close(disputed["id"], "lost")
    for twin in [each for each in stripe._of("dispute") if each["status"] != "lost"]:
        stripe.close(twin["id"], "won")
    events = stripe.events * 3
    chance.shuffle(events)
    stripe.events = events
    await delivered(stripe)
    assert await gateway.balance() == START


# ------------------------------------------------------------------------------------------------ what breaks off


async def test_what_was_paid_while_no_event_came_is_found_by_the_job(gateway: InProcess, stripe: Stripe):
    opened = await bought(gateway, stripe)
    stripe.events.clear()
    found = await reconciliation.reconcile()
    assert (found["seen"], found["healed"]) == (1, 1)
    assert await gateway.balance() == START + 10 * NANO
    stripe._make_refund({"payment_intent": opened["intent"]})
    stripe.events.clear()
    await gateway.books.execute("update gateway.rollups set until = until - interval '1 hour' where name = 'stripe'")
    assert (await reconciliation.reconcile())["healed"] == 1
    assert await gateway.balance() == START
    await gateway.books.execute("update gateway.rollups set until = until - interval '1 hour' where name = 'stripe'")
    assert (await reconciliation.reconcile())["healed"] == 0


async def test_a_payment_that_never_came_to_be_at_stripe_is_canceled(gateway: InProcess, stripe: Stripe):
    stripe.is_down = True
    error_of(await post(gateway, CHECKOUT, {"amount": 10}, idempotency_key="k"), 503, "payments_unavailable")
    stripe.is_down = False
    await gateway.books.execute("update gateway.payments set created_at = created_at - interval '1 hour'")
    assert await reconciliation.check_open() == 1
    assert (await gateway.rows("select status from gateway.payments")) == [{"status": "canceled"}]
    opened = (await post(gateway, CHECKOUT, {"amount": 10}, idempotency_key="k")).json()
    stripe.pay(opened["session_id"])
    await delivered(stripe)
    assert await gateway.balance() == START + 10 * NANO


async def test_an_event_that_came_while_stripe_was_away_is_kept_and_worked_on(gateway: InProcess, stripe: Stripe):
    await bought(gateway, stripe)
    stripe.is_down = True
    body, headers = stripe.signed(stripe.events[-1])
    answer = await gateway.client.post("/api/stripe/webhook", content=body, headers=headers)
    error_of(answer, 503, "payments_unavailable")
    stripe.is_down = False
    assert (await stripe_events.work_due()) == {"worked": 1, "failed": 0}
    assert await gateway.balance() == START + 10 * NANO


async def test_an_event_about_a_payment_that_is_not_here_waits(gateway: InProcess, stripe: Stripe):
    await bought(gateway, stripe)
    event = {**stripe.events[-1], "data": {"object": {"id": "pi_other", "metadata": {"gatewayz_payment_id": "999"}}}}
    body, headers = stripe.signed(event)
    error_of(await gateway.client.post("/api/stripe/webhook", content=body, headers=headers), 404, "not_found")
    assert (await stripe_events.work_due()) == {"worked": 0, "failed": 1}
    assert (await gateway.rows("select worked_at, tries from gateway.stripe_events")) == [
        {"worked_at": None, "tries": 1}
    ]


async def test_what_is_not_about_us_is_passed(gateway: InProcess, stripe: Stripe):
    for kind, about in (("payout.paid", {"id": "po_1"}), ("payment_intent.succeeded", {"id": "pi_other"})):
        body, headers = stripe.signed({"id": f"evt_{kind}", "type": kind, "created": 1, "data": {"object": about}})
        answer = await gateway.client.post("/api/stripe/webhook", content=body, headers=headers)
        assert (answer.status_code, answer.json()["received"]) == (200, True)
    outcomes = await gateway.rows("select outcome from gateway.stripe_events order by id")
    assert [row["outcome"] for row in outcomes] == ["not ours", "ignored"]
    assert await gateway.balance() == START


async def test_forged_events_are_refused_and_not_kept(gateway: InProcess, stripe: Stripe):
    await bought(gateway, stripe)
    body, headers = stripe.signed(stripe.events[-1])
    now = int(headers["stripe-signature"].split(",")[0][2:])
    signature = headers["stripe-signature"]
    forged = {
        "none": (body, None),
        "empty": (body, ""),
        "no time": (body, signature.split(",")[1]),
        "old scheme": (body, signature.replace("v1=", "v0=")),
        "of another body": (body + b" ", signature),
        "stale": (body, stripe.signed(stripe.events[-1], now - 301)[1]["stripe-signature"]),
        "of the future": (body, stripe.signed(stripe.events[-1], now + 400)[1]["stripe-signature"]),
        "half": (body, signature[:-1]),
        "no event": (b"[]", stripe.signed([])[1]["stripe-signature"]),  # type: ignore[arg-type]
    }
    before = await gateway.tables()
    for name, (raw, sent) in forged.items():
        given = {"stripe-signature": sent} if sent is not None else {}
        answer = await gateway.client.post("/api/stripe/webhook", content=raw, headers=given)
        assert answer.status_code == 400, name
    assert await gateway.tables() == before


@pytest.mark.process
@pytest.mark.parametrize("secret", ["", "STRIPE_SECRET_KEY"])
def test_without_the_secret_that_stripe_signs_with_its_function_does_not_start(secret: str):
    changes = {secret or "STRIPE_WEBHOOK_SECRET": ""}
    done = ended("import stripe_webhook.handler", **changes)
    assert done.returncode != 0
    assert "IncompleteSettings: STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRET must be set" in done.stderr
    assert "sk_test_only" not in done.stderr
