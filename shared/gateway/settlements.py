"""Settlements: what a request cost, on its way to the ledger; through a queue when the database is away.

A settlement carries its hold's id, so that it counts once however often it is delivered, and the user and key, so that
it counts even when a crash lost the hold.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import msgspec

from gateway import aws, database, telemetry
from gateway.errors import DatabaseUnavailable
from gateway.settings import settings

MAX_MESSAGE_BYTES = 250_000
"""SQS takes 256 KiB a message; an answer that does not fit is not kept, nor what else was to be."""
MAX_ANSWER_BYTES = 1 << 20
"""Of an answer that is kept for an Idempotency-Key. Whoever repeats the request of a larger one is refused."""
TOO_LARGE = ""
"""Stands for an answer that was given and could not be kept."""
NUL = rb"\u0000"
RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Where there is no queue (containers), a settlement is tried again after these; the last one repeats."""


class Settlement(msgspec.Struct, frozen=True):
    hold_id: str
    user_id: int
    key_id: int
    usage: dict[str, Any]
    """Columns of gateway.usage_records."""
    answer: str | None = None
    """The completion as JSON, kept for the request's Idempotency-Key, or TOO_LARGE."""
    memory: dict[str, Any] | None = None
    """What the caller asked to be kept: {response} or {turn}, as api.settle takes them."""


async def book(settlement: Settlement) -> None:
    """Settle in the ledger; without the answer and the memory where the database, or the way to it, fails at them.

    Raises DatabaseUnavailable, and whatever the charge by itself fails with.
    """
    try:
        await _settle(settlement)
    except DatabaseUnavailable:
        raise
    except Exception as error:
        bare = _bare(settlement)
        if bare == settlement:
            raise
        telemetry.failure("settlement_without_extras", error, hold_id=settlement.hold_id)
        await _settle(bare)


async def _settle(settlement: Settlement) -> None:
    arguments = msgspec.structs.asdict(settlement)
    if settlement.memory is not None:
        arguments["memory"] = storable(settlement.memory)
    await database.call("settle", **arguments)


def _bare(settlement: Settlement) -> Settlement:
    """The charge alone. An Idempotency-Key stays taken: who uses it again is not served, and not charged, twice."""
    return msgspec.structs.replace(settlement, answer=None if settlement.answer is None else TOO_LARGE, memory=None)


def storable(value: Any) -> msgspec.Raw:
    """A value as jsonb can keep it: encoded, without the NULs and lone surrogates in its texts."""
    with suppress(UnicodeEncodeError):
        encoded = msgspec.json.encode(value)
        if NUL not in encoded:
            return msgspec.Raw(encoded)
    return msgspec.Raw(msgspec.json.encode(_cleaned(value)))


def _cleaned(value: Any) -> Any:
    match value:
        case str():
            return value.replace("\0", "").encode(errors="ignore").decode()
        case dict():
            return {_cleaned(name): _cleaned(member) for name, member in value.items()}
        case list():
            return [_cleaned(member) for member in value]
        case _:
            return value


async def enqueue(settlement: Settlement) -> None:
    """Hand a settlement to the queue; where there is none, or it fails, keep trying the ledger. Raises nothing."""
    if settings.settlement_queue_url:
        try:
            await asyncio.to_thread(_send, settings.settlement_queue_url, settlement)
        except Exception as error:  # noqa: BLE001 - whatever it was, the ledger is still there to be tried
            telemetry.failure("settlement_queue_unavailable", error, hold_id=settlement.hold_id)
        else:
            queued = {"SettlementsQueued": 1}
            telemetry.log("settlement_queued", level="WARNING", metrics=queued, hold_id=settlement.hold_id)
            return
    for attempt in range(1_000):
        await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
        try:
            await book(settlement)
        except Exception as error:  # noqa: BLE001 - the next try may find what failed mended
            telemetry.failure("settlement_delayed", error, hold_id=settlement.hold_id, attempt=attempt)
        else:
            return
    lost = msgspec.structs.replace(settlement, answer=None, memory=None)
    telemetry.log(
        "settlement_lost", level="CRITICAL", metrics={"SettlementsLost": 1}, settlement=msgspec.structs.asdict(lost)
    )


def _send(queue_url: str, settlement: Settlement) -> None:
    try:
        body = msgspec.json.encode(settlement)
    except (ValueError, TypeError, RecursionError):  # what cannot be encoded is among the extras
        body = b""
    if not 0 < len(body) <= MAX_MESSAGE_BYTES:
        body = msgspec.json.encode(_bare(settlement))
    message = {"QueueUrl": queue_url, "MessageBody": body.decode()}
    aws.call(settings.aws, "sqs", "AmazonSQS.SendMessage", message, version="1.0")


def received(body: str) -> Settlement:
    """A settlement from a queue message's body. Raises msgspec.ValidationError for anything else."""
    return msgspec.json.decode(body, type=Settlement)
