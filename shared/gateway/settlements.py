"""Settlements: what a request cost, on its way to the ledger; through a queue when the database is away.

A settlement carries its hold's id, so that it counts once however often it is delivered, and the user and key, so that
it counts even when a crash lost the hold.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from gateway import aws, database, telemetry
from gateway.aws import AwsError
from gateway.errors import GatewayError
from gateway.settings import settings

MAX_MESSAGE_BYTES = 250_000
"""SQS takes 256 KiB a message; an answer that does not fit is not kept, nor what else was to be."""
RETRY_S = (1.0, 2.0, 5.0, 10.0, 30.0)
"""Where there is no queue (containers), a settlement is tried again after these; the last one repeats."""


class Settlement(msgspec.Struct, frozen=True):
    hold_id: str
    user_id: int
    key_id: int
    usage: dict[str, Any]
    """Columns of gateway.usage_records."""
    answer: str | None = None
    """The completion as JSON, kept for the request's Idempotency-Key."""
    memory: dict[str, Any] | None = None
    """What the caller asked to be kept: {response} or {turn}, as api.settle takes them."""


async def book(settlement: Settlement) -> None:
    """Settle in the ledger. Raises DatabaseUnavailable, and InternalError when the database fails at it."""
    await database.call("settle", **msgspec.structs.asdict(settlement))


async def enqueue(settlement: Settlement) -> None:
    """Hand a settlement to the queue; where there is none, or it is away too, keep trying the ledger."""
    if settings.settlement_queue_url:
        try:
            await asyncio.to_thread(_send, settings.settlement_queue_url, settlement)
        except AwsError:
            telemetry.log("settlement_queue_unavailable", level="ERROR", hold_id=settlement.hold_id)
        else:
            queued = {"SettlementsQueued": 1}
            telemetry.log("settlement_queued", level="WARNING", metrics=queued, hold_id=settlement.hold_id)
            return
    for attempt in range(1_000):
        await asyncio.sleep(RETRY_S[min(attempt, len(RETRY_S) - 1)])
        try:
            await book(settlement)
        except GatewayError:
            telemetry.log("settlement_delayed", level="ERROR", hold_id=settlement.hold_id, attempt=attempt)
        else:
            return
    lost = msgspec.structs.replace(settlement, answer=None, memory=None)
    telemetry.log(
        "settlement_lost", level="CRITICAL", metrics={"SettlementsLost": 1}, settlement=msgspec.structs.asdict(lost)
    )


def _send(queue_url: str, settlement: Settlement) -> None:
    body = msgspec.json.encode(settlement)
    if len(body) > MAX_MESSAGE_BYTES:
        body = msgspec.json.encode(msgspec.structs.replace(settlement, answer=None, memory=None))
    message = {"QueueUrl": queue_url, "MessageBody": body.decode()}
    aws.call(settings.aws, "sqs", "AmazonSQS.SendMessage", message, version="1.0")


def received(body: str) -> Settlement:
    """A settlement from a queue message's body. Raises msgspec.ValidationError for anything else."""
    return msgspec.json.decode(body, type=Settlement)
