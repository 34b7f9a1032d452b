"""What Stripe and we have to agree on, compared: events that never came and calls that broke off heal here."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway import database, payments, stripe_api, telemetry
from gateway.errors import GatewayError
from gateway.settings import settings

WINDOW_S = 3600
OVERLAP_S = 600
"""Stripe's entries are read by the hour, and from ten minutes before: some come into the list late."""
BUDGET_S = 30
"""For the windows of one run; what is left waits for the next."""
OPEN_MINUTES = 30
MOST_OPEN = 50
ABANDONED = timedelta(days=7)
ACTOR = {"name": "job:reconcile"}


async def reconcile() -> dict[str, int]:
    """Compare Stripe's balance transactions with our payments, and look again at those that differ.

    Where nothing is sold there is nothing to compare.
    """
    if settings.stripe is None:
        return {"seen": 0, "healed": 0, "open": 0}
    began, now = time.monotonic(), int(time.time())
    start = (await database.call("stripe_mark", read_to=None))["from"]
    seen = healed = 0
    while start < now and time.monotonic() < began + BUDGET_S:
        end = min(start + WINDOW_S, now)
        async with stripe_api.asked() as api:
            created = {"gte": start - OVERLAP_S, "lte": end}
            listed = await api.balance_transactions.list_async(
                {"created": created, "limit": 100, "expand": ["data.source"]}
            )
            async for entry in listed.auto_paging_iter():
                seen += 1
                healed += await _compared(entry)
        start = (await database.call("stripe_mark", read_to=end))["from"]
    return {"seen": seen, "healed": healed, "open": await check_open()}


async def _compared(entry: Any) -> bool:
    """Whether an entry of Stripe's told something that we had missed."""
    source = entry.source
    intent_id = stripe_api.member(source, "payment_intent")
    named = stripe_api.member(stripe_api.member(source, "metadata"), stripe_api.PAYMENT)
    if intent_id is None:
        return False
    payment = await payments.find(payment_id=int(named) if named else None, intent_id=intent_id)
    if payment is None:
        if named:
            telemetry.log("payment_unknown", level="ERROR", payment_id=named, intent_id=intent_id)
        return False
    payment["intent_id"] = payment["intent_id"] or intent_id
    before = _state(payment)
    return _state(await payments.refresh(payment, ACTOR)) != before


def _state(payment: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(payment[name] for name in ("status", "refunded_cents", "lost_cents", "is_disputed"))


async def check_open() -> int:
    """Look at payments that have been open for a while; an intent that nobody pays for a week is canceled."""
    due = await database.call("claim_open_payments", minutes=OPEN_MINUTES, most=MOST_OPEN)
    for payment in due:
        try:
            if payment["kind"] == "intent" and payment["intent_id"] and _age(payment) > ABANDONED:
                await stripe_api.cancel_intent(payment["intent_id"])
            await payments.refresh(payment, ACTOR)
        except GatewayError as error:
            telemetry.log("payment_not_checked", level="WARNING", payment_id=payment["id"], code=error.code)
    return len(due)


def _age(payment: dict[str, Any]) -> timedelta:
    return datetime.fromtimestamp(time.time(), UTC) - datetime.fromisoformat(payment["created_at"])
