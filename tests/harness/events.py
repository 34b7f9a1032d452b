"""The events of events/, filled in; and what each that is no request must lead to, wherever the functions run."""

from __future__ import annotations

import json
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from local.stripe import signature
from tests.harness.builders import insert

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from tests.harness.gateway import Gateway

    type Invoke = Callable[[str, Mapping[str, Any]], Awaitable[Any]]
    """An invocation of a function by its name; gives its answer."""

FOLDER = Path(__file__).parents[2] / "events"
BOUND_NANO = 5_000
SETTLED_NANO = 7_500
"""What the settlement of events/settlements.json costs."""


def event(name: str, **values: str | int) -> dict[str, Any]:
    """An event by its name, with `values` for its $NAMES."""
    filled: dict[str, Any] = json.loads(Template((FOLDER / f"{name}.json").read_text()).substitute(values))
    return filled


def stripe_event(secret: str) -> dict[str, Any]:
    """The event of a Stripe account with this signing secret, signed now."""
    body = event("stripe_webhook", STRIPE_SIGNATURE="")["body"]
    return event("stripe_webhook", STRIPE_SIGNATURE=signature(secret, body.encode()))


async def a_job_ends_what_is_over(invoke: Invoke, customer: Gateway) -> None:
    """A hold whose time is over is let go by the job that is there for it."""
    hold = {"id": uuid4(), "user_id": customer.user_id, "key_id": await _key_id(customer), "bound_nano": BOUND_NANO}
    await insert(customer.books, "credit_holds", **hold, expires_at=await customer.books.fetchval("select now()"))
    await customer.books.execute("update gateway.users set held_nano = $1 where id = $2", BOUND_NANO, customer.user_id)
    assert await invoke("JobsFunction", event("expire_holds")) == {"expired": 1}
    assert (await customer.holds(), await customer.held()) == (["expired"], 0)


async def a_settlement_is_booked_once(invoke: Invoke, customer: Gateway) -> None:
    """A message of the settlement queue is charged, and nothing more when it is delivered again."""
    before = await customer.balance()
    batch = event("settlements", HOLD_ID=str(uuid4()), USER_ID=customer.user_id, KEY_ID=await _key_id(customer))
    for _ in range(2):
        assert await invoke("JobsFunction", batch) == {"batchItemFailures": []}
        assert await customer.balance() == before - SETTLED_NANO


async def _key_id(customer: Gateway) -> int:
    query = "select id from gateway.api_keys where user_id = $1"
    found: int = await customer.books.fetchval(query, customer.user_id)
    return found
