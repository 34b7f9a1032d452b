"""The events of events/, filled in."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import Any

from local.stripe import signature

FOLDER = Path(__file__).parents[2] / "events"


def event(name: str, **values: str | int) -> dict[str, Any]:
    """An event by its name, with `values` for its $NAMES."""
    filled: dict[str, Any] = json.loads(Template((FOLDER / f"{name}.json").read_text()).substitute(values))
    return filled


def stripe_event(secret: str) -> dict[str, Any]:
    """The event of a Stripe account with this signing secret, signed now."""
    body = event("stripe_webhook", STRIPE_SIGNATURE="")["body"]
    return event("stripe_webhook", STRIPE_SIGNATURE=signature(secret, body.encode()))
