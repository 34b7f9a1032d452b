"""`make scale`: whether an answer takes longer when there are more users. The same calls on a database with a thousand
users and then with a million, ten requests a user, and the same jobs; the ten million requests take some 20 GB of disk
for a while.

python -m bench.scale --users 100000 --plans plans.txt     # fewer users; and the plan of every statement inside
"""

from __future__ import annotations

import argparse
import asyncio
import os
import secrets
import statistics
import sys
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import asyncpg

from bench import plans as explain
from bench.processes import ROOT
from local import postgres, schema

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    type Call = Callable[[int], Awaitable[Any]]

FEW = 1_000
EACH = 10
"""Requests a user."""
STEP = 50_000
"""Users that are made in one transaction."""
ROUNDS = 3
CALLS = 60
"""Of each kind, in each round."""
LIMIT = 1.5
"""Times what it takes with `FEW` users."""
CATALOGUE = """
with plan as (update gateway.plans set requests_per_minute = 100000000, tokens_per_minute = 100000000000),
model as (
  insert into gateway.models (id, name, context_length, max_output_tokens)
  select 'acme/' || n, n, 128000, 4096 from unnest(array['one', 'two', 'three']) n returning id)
insert into gateway.offers (model_id, provider, upstream_id, prompt_price, completion_price)
select id, 'openrouter', id, 100000000, 400000000 from model
"""
JOB_CALLS = 5
"""Of each job, in each round: the first finds something to do, the others what was left."""
JOB_LIMIT_MS = 2000
"""A job that adds up what many did may take longer with more of them, but no more than a fifth of what a call may."""
JOBS: dict[str, dict[str, Any]] = {
    "expire_holds": {}, "check_ledger": {"most": 500, "most_rows": 10_000}, "expire_grants": {},
    "purge_idempotency_keys": {}, "purge_responses": {}, "purge_chats": {}, "purge_outbox": {}, "purge_credentials": {},
    "measure_offers": {}, "refresh_catalogue": {}, "refresh_ranking": {}, "roll_up_usage": {"most": 10_000},
    "watch_balances": {"most": 500}, "report_usage": {"most": 500}, "raise_alerts": {"pause": False},
    "audit_refusals": {}, "purge_audit_day": {"days": 365},
    "fan_out": {"channels": ["mail", "webhook", "alert", "bus"], "most": 1000},
    "claim_deliveries": {"channel": "mail", "most": 100, "lease_s": 60}, "end_trials": {}, "due_rotations": {},
    "claim_stripe_events": {"most": 100}, "claim_open_payments": {"minutes": 60, "most": 100},
    "open_top_ups": {"most": 100},
}  # fmt: skip


def say(text: str) -> None:
    """What is being done, beside the figures."""
    print(text, file=sys.stderr, flush=True)


def routes() -> dict[str, Call]:
    """What is measured, as the routes call it: every one asks the database once."""
    from gateway import credits, keyring, usage, users  # noqa: PLC0415 - they read the environment when imported

    today = datetime.now(UTC).date()

    def asked(group_by: str) -> Awaitable[Any]:
        return usage.report(usage.Question(group_by, today - timedelta(days=29), today))

    return {
        "authorize": lambda user: credits.authorize(**completion(user)),
        "balance": users.balance,
        "key list": keyring.listed,
        "admin usage by day": lambda _: asked("day"),
        "admin usage by model": lambda _: asked("model"),
        "admin usage by user": lambda _: asked("user"),
        "admin usage by key": lambda _: asked("key"),
    }


def completion(user: int) -> dict[str, Any]:
    """The arguments of a completion's authorize."""
    return {
        "hold_id": str(uuid.uuid4()), "key_id": f"{user:012d}", "key_hashes": [f"v1:{user:064x}"], "ip": "203.0.113.1",
        "referer": None, "models": ["acme/one"], "providers": ["openrouter"], "preferences": {}, "prompt_tokens": 100,
        "expected_tokens": 200, "max_tokens": 100, "choices": 1, "max_cost_nano": None, "idempotency_key": None,
        "fingerprint": None,
    }  # fmt: skip


async def populate(owner: asyncpg.Connection, first: int, last: int) -> None:
    """Make these users and what they did."""
    for start in range(first, last + 1, STEP):
        end = min(start + STEP - 1, last)
        await owner.execute(f"select pg_temp.populate({start}, {end}, {EACH})")
        say(f"  {end:,} users")
    await owner.execute("vacuum (analyze)")


def jobs() -> dict[str, Call]:
    """What the jobs ask the database, whatever its users."""
    from gateway import database  # noqa: PLC0415

    def asked(name: str) -> Call:
        return lambda _: database.call(name, **JOBS[name])

    return {f"job {name}": asked(name) for name in JOBS}


async def timed(calls: dict[str, Call], users: int, times: int = CALLS) -> dict[str, float]:
    """The milliseconds of each call, for users at random: the least median of the rounds, as others disturb it."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            took: list[float] = []
            for _ in range(times):
                user = 1 + secrets.randbelow(users)
                start = time.perf_counter()
                await call(user)
                took.append(1000 * (time.perf_counter() - start))
            found[name].append(statistics.median(took))
    return {name: min(medians) for name, medians in found.items()}


async def explained(url: str, calls: dict[str, Call], users: int) -> str:
    """The plans of every statement that each call runs, as they were run; each call has been made before."""
    from gateway import database  # noqa: PLC0415
    from gateway.database.postgres import Connection, Postgres  # noqa: PLC0415

    plans: list[str] = []

    class Explained(Postgres):
        async def _connect(self) -> Connection:
            connection = await super()._connect()
            await explain.listen(connection, plans, "text")
            return connection

    line = Explained(url)
    database.use(line)
    told: list[str] = []
    for name, call in calls.items():
        user = 1 + secrets.randbelow(users)
        await call(user)
        plans.clear()
        await call(user)
        told += [f"==== {name}, {users:,} users", *plans]
    await line.close()
    return "\n".join(told) + "\n"


async def compared(url: str, service: str, users: int, plans: Path | None) -> bool:
    """Fill the database twice, measure twice and print; whether every ratio keeps to the limit."""
    from gateway import database  # noqa: PLC0415
    from gateway.database.postgres import Postgres  # noqa: PLC0415

    owner = await asyncpg.connect(url)
    await owner.execute(CATALOGUE)
    await owner.execute((ROOT / "bench" / "population.sql").read_text())
    line = Postgres(service)
    database.use(line)
    calls = routes()
    found: list[dict[str, float]] = []
    for first, last in ((1, FEW), (FEW + 1, users)):
        await populate(owner, first, last)
        found.append(await timed(calls, last) | await timed(jobs(), last, JOB_CALLS))
    size = await owner.fetchval("select pg_size_pretty(pg_database_size(current_database()))")
    print(f"{'ms':24}{FEW:>12,}{users:>12,}{'ratio':>8}    database: {size}")
    few, many = found
    for name in many:
        print(f"{name:24}{few[name]:12.2f}{many[name]:12.2f}{many[name] / few[name]:8.2f}")
    await line.close()
    if plans:
        plans.write_text(await explained(url, calls | jobs(), users))
    await owner.close()
    return all(many[name] <= LIMIT * few[name] or (name not in calls and many[name] <= JOB_LIMIT_MS) for name in many)


async def measured(folder: Path, users: int, plans: Path | None) -> bool:
    """A database of its own, made, filled, measured and gone."""
    server = postgres.Server(postgres.binaries(), folder / "data", durable=False)
    server.start()
    try:
        await schema.apply(server.url())
        await schema.admit_functions(server.url())
        service = server.url(user=schema.FUNCTIONS_LOGIN)
        os.environ.update(STAGE="dev", KEY_PEPPERS=f"v1:{secrets.token_hex(16)}", DATABASE_URL=service)
        return await compared(server.url(), service, users, plans)
    finally:
        server.stop()


def main() -> int:
    """Exit status 1 when a call takes more than 1.5 times as long, or a job that and more than two seconds."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--users", type=int, default=1_000_000)
    options.add_argument("--plans", type=Path, help="a file for the plans of every statement")
    chosen = options.parse_args()
    with TemporaryDirectory() as folder:
        kept = asyncio.run(measured(Path(folder), chosen.users, chosen.plans))
    print("everything keeps to its limit" if kept else f"a ratio is above {LIMIT}, and of a job the time, too")
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
