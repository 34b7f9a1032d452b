"""No job reads a table whole that grows with users, requests or years.

Such a scan is slow first; when it takes longer than a call may, the job never ends again. Every function that jobs may
call is called here over something to do (due.sql), with scans of tables switched off where an index would serve. A scan
that is left has no index, or a condition that no index can serve.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from bench import plans
from tests.database.grants import MAY_EXECUTE

if TYPE_CHECKING:
    from tests.harness.builders import Connection

DUE = Path(__file__).with_name("due.sql")
ACTOR = {"name": "test", "scopes": ["admin:write"]}
HOLD = "00000000-0000-0000-0000-00000000000b"
USAGE = {
    "model": "acme/one", "provider": "openrouter", "prompt_tokens": 10, "completion_tokens": 10, "cached_tokens": 0,
    "reasoning_tokens": 0, "cost_nano": 100, "is_estimated": False, "is_streamed": False,
    "outcome": "completed", "duration_ms": 5,
}  # fmt: skip
MINTED = {"public_id": "abcdefghijkz", "key_hash": "v1:" + 64 * "3", "last_four": "abcd"}
PAID = {"status": "paid", "paid_cents": 500, "intent_id": "pi_1"}
CALLS: dict[str, dict[str, Any]] = {
    "add_months": {},
    "attach_payment": {"payment_id": 1001, "session_id": "cs_2", "intent_id": None},
    "audit_refusals": {},
    "check_ledger": {"most": 100, "most_rows": 1000},
    "fan_out": {"channels": ["mail", "webhook", "alert", "bus"], "most": 100},
    "claim_deliveries": {"channel": "mail", "most": 100, "lease_s": 60},
    "claim_open_payments": {"minutes": 60, "most": 100},
    "claim_stripe_events": {"most": 100},
    "delivery_failed": {"delivery_id": 1001, "tries": 0, "wait_s": None, "reason": "refused"},
    "delivery_sent": {"delivery_id": 1000},
    "due_rotations": {},
    "end_trials": {},
    "expire_grants": {},
    "expire_holds": {},
    "find_payment": {"id": None, "session_id": "cs_1", "intent_id": None, "invoice_id": None},
    "measure_offers": {},
    "open_invoice": {
        "invoice_id": "in_1", "subscription_id": "sub_1", "user_id": 1000, "plan_id": 1, "amount_cents": 500,
        "is_period": True, "actor": ACTOR,
    },
    "open_top_ups": {"most": 100},
    "pass_event": {"event_id": "evt_1", "outcome": "done"},
    "purge_audit_day": {"days": 365},
    "purge_chats": {},
    "purge_credentials": {},
    "purge_idempotency_keys": {},
    "purge_outbox": {},
    "purge_responses": {},
    "raise_alerts": {"pause": True},
    "record_payment": {"payment_id": 1000, "version": 0, "facts": PAID, "event_ids": ["evt_1"], "actor": ACTOR},
    "record_subscription": {
        "subscription_id": "sub_1", "version": 0, "user_id": 1000,
        "facts": {"status": "active", "plan_id": 1, "cancel_at_period_end": False}, "event_ids": [], "actor": ACTOR,
    },
    "refresh_catalogue": {},
    "refresh_ranking": {},
    "roll_up_usage": {"most": 100},
    "report_usage": {"most": 100},
    "rotate_due": {"key_id": 1000, "minted": MINTED, "sealed": "sealed", "actor": ACTOR},
    "settle": {"hold_id": HOLD, "user_id": 1000, "key_id": 1000, "usage": USAGE, "answer": None, "memory": None},
    "stripe_mark": {"read_to": None},
    "subscription_version": {"subscription_id": "sub_1"},
    "sync_offers": {"provider": "openrouter", "listings": []},
    "watch_balances": {"most": 100},
}  # fmt: skip
"""Every function that jobs may call, with arguments for what due.sql has made."""
NO_OTHER_WAY = "set local enable_seqscan = off; set local enable_hashjoin = off; set local enable_mergejoin = off"
"""Small tables are read whole because that is cheaper; what is left of scans after this cannot be done by an index."""
OF_ONE_USER = {"settle", "rotate_due"}
"""What finds its rows by a user or a key: a handful, of which it may ask the time after it waited for them."""
ALSO: dict[str, dict[str, Any]] = {"monitor": {"hours": 24}}
"""What an operator's page asks for again and again."""


async def called(operator: Connection, name: str, arguments: dict[str, Any]) -> None:
    marks = ", ".join(f"{argument} => ${number}" for number, argument in enumerate(arguments, 1))
    values = [
        msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value for value in arguments.values()
    ]
    await operator.fetchval(f"select api.{name}({marks})", *values)


def test_every_function_of_the_jobs_is_called() -> None:
    assert CALLS.keys() == {name for name, roles in MAY_EXECUTE.items() if "gateway_jobs" in roles}


async def test_a_job_scans_nothing_that_grows(operator: Connection) -> None:
    named = await operator.fetch("select indexrelid::regclass::text from pg_index where indpred is not null")
    partial = frozenset(name.rpartition(".")[2] for (name,) in named)
    heard: list[str] = []
    await plans.listen(operator, heard, "json")
    found: list[str] = []
    whole = operator.transaction()
    await whole.start()
    await operator.execute(DUE.read_text())
    await operator.execute(NO_OTHER_WAY)
    for name, arguments in (CALLS | ALSO).items():
        heard.clear()
        alone = operator.transaction()
        await alone.start()
        await called(operator, name, arguments)
        await alone.rollback()
        assert heard, name
        found += [f"{name}: {read} whole in {plan}" for plan in heard if (read := plans.reads_whole(plan, partial))]
        if name not in OF_ONE_USER:
            found += [
                f"{name}: {by} by the clock in {plan}" for plan in heard if (by := plans.compares_with_the_clock(plan))
            ]
    await whole.rollback()
    assert not found, "\n".join(found)
