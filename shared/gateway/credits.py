"""Credits: a completion's cost is held before its provider is asked, and settled or released after, once.

What happened, and what becomes of the hold:

    refused by every provider before a token   released
    answered, with usage                       settled at it, even above the bound or after the hold expired
    cut or given up on the way, no usage       settled at an estimate of what was seen
    the client left                            read on, for 30 s in a container, and settled
    the database was away, or failed           queued, and settled later under the same id, once
    the process died                           nothing: the hold expires and is released by the sweep
"""

from __future__ import annotations

from typing import Any

import msgspec

from gateway import database, refusals, settlements, telemetry
from gateway.errors import InsufficientScope, Unauthenticated
from gateway.settlements import Settlement


class Tier(msgspec.Struct, frozen=True):
    """An offer's prices for prompts of more than `above_tokens` tokens."""

    above_tokens: int
    prompt_price: int
    completion_price: int
    cache_read_price: int
    cache_write_price: int


class Offer(msgspec.Struct, frozen=True):
    """A provider's offer of a model; prices in nano-dollars per million units."""

    model: str
    provider: str
    upstream_id: str
    max_output_tokens: int
    prompt_price: int
    completion_price: int
    request_price: int
    cache_read_price: int
    cache_write_price: int
    sealed: str | None = None
    """The user's own key of the provider, sealed: what goes through it takes no credits."""
    tiers: list[Tier] | None = None
    """Ascending."""
    context_length: int | None = None
    """Tokens of the model that the prompt and the answer share."""


class Level(msgspec.Struct, frozen=True):
    """What is left of a limit per minute."""

    limit: int
    remaining: int
    reset_ms: int


class Limits(msgspec.Struct, frozen=True):
    requests: Level | None
    tokens: Level | None


class Replay(msgspec.Struct, frozen=True):
    """A request that was served before under the same Idempotency-Key: its completion, as JSON."""

    hold_id: str
    answer: str


class Hold(msgspec.Struct, frozen=True):
    """A request that was admitted. Amounts in nano-dollars."""

    limits: Limits
    hold_id: str = ""
    user_id: int = 0
    key_id: int = 0
    credits_nano: int = 0
    bound_nano: int = 0
    max_tokens: int | None = None
    """Completion tokens the balance allows, when they are fewer than were asked for."""
    offers: list[Offer] = []
    retention: str = "full"
    """What the key lets be kept: none, metadata or full."""
    replay: Replay | None = None


class Quote(msgspec.Struct, frozen=True):
    """The offers that a request would have, and what is free of the balance and the key's limit, in nano-dollars."""

    offers: list[Offer]
    available_nano: int


async def quote(**request: Any) -> Quote:
    """What a completion would be offered (see api.quote). Raises the 4xx that would refuse it whatever it cost."""
    try:
        return msgspec.convert(await database.call("quote", **request), Quote)
    except (Unauthenticated, InsufficientScope) as refusal:
        await refusals.count(refusal, request["ip"], request["key_id"])
        raise


async def authorize(**request: Any) -> Hold:
    """Admit a completion (see api.authorize). Raises the 4xx that refuses it, and DatabaseUnavailable."""
    try:
        admitted = await database.call("authorize", **request)
    except (Unauthenticated, InsufficientScope) as refusal:
        await refusals.count(refusal, request["ip"], request["key_id"])
        raise
    hold = msgspec.convert(admitted, Hold)
    if hold.replay is None:
        telemetry.identify(hold.user_id, hold.key_id)
    return hold


async def settle(settlement: Settlement) -> None:
    """Book what a request cost. Whatever fails at it, it is queued: it is not lost, and counts once. Raises nothing."""
    try:
        await settlements.book(settlement)
    except Exception as error:  # noqa: BLE001 - what was used is paid for, whatever else went wrong
        telemetry.failure("settlement_failed", error, hold_id=settlement.hold_id)
        await settlements.enqueue(settlement)


async def release(hold: Hold, failed: dict[str, Any] | None = None) -> None:
    """Give a hold back, with the usage record of a request that every provider `failed`. Raises nothing.

    When the database is away or fails, the hold's expiry gives it back, and the record is lost.
    """
    try:
        await database.call("release", hold_id=hold.hold_id, user_id=hold.user_id, key_id=hold.key_id, usage=failed)
    except Exception as error:  # noqa: BLE001 - whoever waits for the answer is to hear why there is none, not this
        telemetry.failure("release_left_to_expiry", error, hold_id=hold.hold_id)
