"""Where Stripe tells its events: signed by it, so without a key of ours."""

from __future__ import annotations

from datetime import UTC, datetime

from fastapi import APIRouter, Request, Response

from gateway import stripe_events
from gateway.http.app import json_answer
from gateway.http.body import StrictRoute

router = APIRouter(route_class=StrictRoute)


@router.post("/api/stripe/webhook")
async def receive_event(request: Request) -> Response:
    """Take an event of Stripe's; one that could not be worked on is kept and answered 5xx, so that it comes again."""
    event = await stripe_events.receive(await request.body(), request.headers.get("stripe-signature"))
    answer = {"event_type": event.type, "event_id": event.id, "message": "The event was worked on."}
    return json_answer({"success": True, "received": True, **answer, "processed_at": datetime.now(UTC)})
