"""The saved card: a user's own page at Stripe, and what is charged when a balance runs low."""

from __future__ import annotations

from typing import Any

from gateway import database, payments, stripe_api
from gateway.errors import NoSavedCard
from gateway.money import show

type Actor = dict[str, Any]


async def portal(user_id: int, return_url: str) -> str:
    """The address of a user's own page at Stripe. Raises NotFound and PaymentsUnavailable."""
    return await stripe_api.portal(await payments.customer(user_id), return_url)


async def get(user_id: int) -> dict[str, Any] | None:
    """A user's automatic top-up; None for none."""
    return _shown(await database.call("auto_top_up", user_id=user_id))


async def choose(actor: Actor, user_id: int, threshold_nano: int, amount_cents: int) -> dict[str, Any] | None:
    """Have the card that was saved last charged below a threshold. Raises NoSavedCard and PaymentsUnavailable."""
    card = await stripe_api.saved_card(await payments.customer(user_id))
    if card is None:
        raise NoSavedCard
    return _shown(
        await database.call(
            "set_auto_top_up", user_id=user_id, threshold_nano=threshold_nano, amount_cents=amount_cents,
            payment_method_id=card, actor=actor,
        )
    )  # fmt: skip


async def turn_off(actor: Actor, user_id: int) -> None:
    """Have nothing charged automatically; again changes nothing."""
    await database.call(
        "set_auto_top_up", user_id=user_id, threshold_nano=0, amount_cents=1, payment_method_id=None, actor=actor
    )


def _shown(found: dict[str, Any] | None) -> dict[str, Any] | None:
    if found is None:
        return None
    return {
        "is_on": found["is_on"],
        "threshold_usd": show(found["threshold_nano"]),
        "amount_cents": found["amount_cents"],
        "failures": found["failures"],
        "last_at": found["last_at"],
    }
