"""Stripe's events, alone: without the secret that they are signed with this function does not start."""

from __future__ import annotations

from gateway.http.adapter import lambda_handler
from gateway.http.app import create_app
from gateway.settings import IncompleteSettings, settings
from stripe_webhook.routes import router

if settings.stripe is None or settings.stripe.webhook_secret is None:
    raise IncompleteSettings("STRIPE_SECRET_KEY and STRIPE_WEBHOOK_SECRET must be set where Stripe's events come in")

app = create_app(router)
handler = lambda_handler(app)
