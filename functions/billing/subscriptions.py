"""Subscriptions to plans, the saved card, and top-ups that happen by themselves."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from gateway import plans, subscriptions, top_ups
from gateway.http.app import json_answer
from gateway.http.body import MAX_ID, Body, StrictRoute, Usd
from gateway.http.caller import Caller, require
from gateway.payments import LEAST_CENTS, MOST_CENTS
from gateway.scopes import Scope
from gateway.settings import settings

router = APIRouter(route_class=StrictRoute)
Reader = Annotated[Caller, Depends(require(Scope.ACCOUNT_READ))]
Payer = Annotated[Caller, Depends(require(Scope.ACCOUNT_WRITE))]


class Choice(Body):
    plan_id: Annotated[int, Field(ge=1, le=MAX_ID)]


class AutoTopUp(Body):
    """When less than `threshold_usd` is there, the saved card is charged `amount_cents`."""

    threshold_usd: Annotated[Usd, Field(le=10**15)]
    amount_cents: Annotated[int, Field(ge=LEAST_CENTS, le=MOST_CENTS)]


@router.get("/user/plan")
async def get_plan(caller: Reader) -> Response:
    """Show the user's plan, its limits, and what is used of them; the default plan when there is no other."""
    return json_answer({"success": True, "plan": await plans.of_user(caller.user_id)})


@router.post("/user/plan")
@router.post("/trials/convert")
async def choose_plan(body: Choice, caller: Payer) -> Response:
    """Subscribe to a plan, or change the one that is subscribed to; Stripe's page takes the first payment."""
    chosen = await subscriptions.subscribe(
        caller.actor(), caller.user_id, body.plan_id,
        success_url=f"{settings.public_url}/?plan=success", cancel_url=f"{settings.public_url}/?plan=canceled",
    )  # fmt: skip
    message = "The plan was changed." if chosen["checkout_url"] is None else "Pay to start the plan."
    return json_answer({"success": True, "message": message, **chosen})


@router.delete("/user/plan")
async def cancel_plan(caller: Payer) -> Response:
    """Let the plan end with the period that is paid."""
    found = await subscriptions.cancel(caller.actor(), caller.user_id)
    answer = {"message": "The plan ends with its period.", "ends_at": found["period_end"]}
    return json_answer({"success": True, **answer, "cancel_at_period_end": found["cancel_at_period_end"]})


@router.post("/api/stripe/portal")
async def open_portal(caller: Payer) -> Response:
    """Open the user's own page at Stripe: cards, invoices, subscriptions."""
    url = await top_ups.portal(caller.user_id, f"{settings.public_url}/")
    return json_answer({"success": True, "url": url})


@router.get("/user/auto-top-up")
async def get_auto_top_up(caller: Reader) -> Response:
    """Show the automatic top-up; null for none."""
    return json_answer({"success": True, "auto_top_up": await top_ups.get(caller.user_id)})


@router.put("/user/auto-top-up")
async def set_auto_top_up(body: AutoTopUp, caller: Payer) -> Response:
    """Have the saved card charged whenever the balance falls below a threshold."""
    found = await top_ups.choose(caller.actor(), caller.user_id, body.threshold_usd, body.amount_cents)
    return json_answer({"success": True, "auto_top_up": found})


@router.delete("/user/auto-top-up")
async def delete_auto_top_up(caller: Payer) -> Response:
    """Have nothing charged automatically."""
    await top_ups.turn_off(caller.actor(), caller.user_id)
    return json_answer({"success": True, "message": "Nothing is charged automatically."})
