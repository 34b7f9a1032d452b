"""The operator's event bus: what happened to users, keys, credits and payments, for rules of EventBridge.

An event is told at least once and has an id, by which who must not count it twice can tell. It was written in the
database in the transaction of what happened (gateway.outbox): nothing here decides about money.
https://docs.aws.amazon.com/eventbridge/latest/APIReference/API_PutEvents.html
"""

from __future__ import annotations

import asyncio
from datetime import datetime
from typing import Any

import msgspec

from gateway import aws
from gateway.aws import AwsError
from gateway.posting import Undelivered
from gateway.settings import settings

SOURCE = "gatewayz"


async def put(event_id: int, event: str, created_at: str, payload: dict[str, Any]) -> None:
    """Put one event on the bus. Raises Undelivered."""
    detail = {"id": f"evt_{event_id}", "stage": settings.stage, **payload}
    entry = {
        "EventBusName": settings.event_bus,
        "Source": SOURCE,
        "DetailType": event,
        "Detail": msgspec.json.encode(detail).decode(),
        "Time": datetime.fromisoformat(created_at).timestamp(),
    }
    call = {"Entries": [entry]}
    try:
        answer = await asyncio.to_thread(aws.call, settings.aws, "events", "AWSEvents.PutEvents", call, version="1.1")
    except AwsError as error:
        raise Undelivered(str(error)) from error
    if answer.get("FailedEntryCount"):
        raise Undelivered("the bus did not take it")
