"""Scheduled work ({"job": name}) and the settlement queue (SQS records): no HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from aws_lambda_powertools.utilities.batch import BatchProcessor, EventType, process_partial_response
from aws_lambda_powertools.utilities.data_classes.sqs_event import SQSRecord

from gateway import (
    alerts,
    audit,
    balances,
    database,
    keyring,
    ledger,
    outbox,
    payments,
    price_lists,
    reconciliation,
    settlements,
    stripe_events,
    telemetry,
    usage,
)

JOBS: Mapping[str, Callable[[], Awaitable[Any]]] = {
    "expire_holds": ledger.expire_holds,
    "check_ledger": ledger.check,
    "expire_grants": lambda: database.call("expire_grants"),
    "purge_idempotency_keys": lambda: database.call("purge_idempotency_keys"),
    "measure_offers": lambda: database.call("measure_offers"),
    "add_months": lambda: database.call("add_months"),
    "purge_chats": lambda: database.call("purge_chats"),
    "purge_responses": lambda: database.call("purge_responses"),
    "sync_prices": price_lists.sync,
    "refresh_catalogue": lambda: database.call("refresh_catalogue"),
    "refresh_ranking": lambda: database.call("refresh_ranking"),
    "roll_up_usage": usage.roll_up,
    "watch_balances": balances.watch,
    "report_usage": balances.report,
    "raise_alerts": alerts.raise_all,
    "audit_refusals": alerts.audit_refusals,
    "purge_audit_logs": audit.purge,
    "send_outbox": outbox.send,
    "purge_outbox": lambda: database.call("purge_outbox"),
    "end_trials": lambda: database.call("end_trials"),
    "work_stripe_events": stripe_events.work_due,
    "reconcile": reconciliation.reconcile,
    "top_up": payments.top_up,
    "rotate_keys": keyring.rotate_due,
    "purge_credentials": lambda: database.call("purge_credentials"),
}
"""Each is safe to run twice, also at the same time."""

_runner = asyncio.Runner()
_processor = BatchProcessor(event_type=EventType.SQS, raise_on_entire_batch_failure=False)


def handler(event: dict[str, Any], context: Any) -> Any:
    """Run one job, or book a batch of settlements and name those to deliver again. Raises KeyError for no such job."""
    if "Records" in event:
        return process_partial_response(event, _book, _processor, context)
    return _runner.run(run(event["job"]))


async def run(name: str) -> Any:
    """Run one job, and log what it says. Raises what the job does, and KeyError for no such job."""
    result = await JOBS[name]()
    telemetry.log("job_done", job=name, result=result)
    return result


def _book(record: SQSRecord) -> None:
    settlement = settlements.received(record.body)
    _runner.run(settlements.book(settlement))
    telemetry.log("settlement_booked", hold_id=settlement.hold_id)
