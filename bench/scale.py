"""`make scale`: whether an answer takes longer when there are more users. The same calls on a database with a thousand users
and with a million, ten requests a user.

python -m bench.scale --plans plans.txt     # the plans of every statement inside, too
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import statistics
import sys
import time
import uuid
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import asyncpg

from bench.processes import ROOT
from local import postgres, schema

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    type Call = Callable[[int], Awaitable[Any]]

FEW = 1_000
EACH = 10
"""Requests a user."""
STEP = 100_000
"""Users that are made in one transaction."""
CALLS = 500
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
EXPLAIN = """
load 'auto_explain';
set auto_explain.log_min_duration = 0; set auto_explain.log_nested_statements = on; set auto_explain.log_analyze = on;
set client_min_messages = log;
"""


def say(text: str) -> None:
    """What is being done, beside the figures."""
    print(text, file=sys.stderr, flush=True)


def routes() -> dict[str, Call]:
    """What is measured, as the routes call it: every one asks the database once."""
    from gateway import credits, keyring, usage, users  # noqa: PLC0415 - they read the environment when imported

    return {
        "authorize": lambda user: credits.authorize(**completion(user)),
        "balance": lambda user: users.balance(user),
        "key list": lambda user: keyring.listed(user),
        "admin usage by model": lambda _: usage.report("model"),
        "admin usage by user": lambda _: usage.report("user"),
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
    """Make these users and what they did, and add it up as the job does."""
    await owner.execute((ROOT / "bench" / "population.sql").read_text())
    for start in range(first, last + 1, STEP):
        end = min(start + STEP - 1, last)
        await owner.execute(f"select pg_temp.populate({start}, {end}, {EACH})")
        say(f"  {end:,} users")
    await owner.execute("vacuum (analyze)")


async def timed(calls: dict[str, Call], users: int) -> dict[str, float]:
    """The median milliseconds of each call, for users at random."""
    found: dict[str, float] = {}
    for name, call in calls.items():
        took: list[float] = []
        for _ in range(CALLS):
            user = random.randint(1, users)
            start = time.perf_counter()
            await call(user)
            took.append(1000 * (time.perf_counter() - start))
        found[name] = statistics.median(took[CALLS // 5 :])
    return found


async def compared(url: str, service: str, users: int, plans: Path | None) -> bool:
    """Fill the database twice, measure twice and print; whether every ratio keeps to the limit."""
    from gateway import database  # noqa: PLC0415
    from gateway.database.postgres import Postgres  # noqa: PLC0415

    owner = await asyncpg.connect(url)
    await owner.execute(CATALOGUE)
    line = Postgres(service)
    database.use(line)
    calls = routes()
    await populate(owner, 1, FEW)
    few = await timed(calls, FEW)
    await populate(owner, FEW + 1, users)
    many = await timed(calls, users)
    print(f"{'ms, median':24}{FEW:>12,}{users:>12,}{'ratio':>8}")
    for name in calls:
        print(f"{name:24}{few[name]:12.2f}{many[name]:12.2f}{many[name] / few[name]:8.2f}")
    if plans:
        plans.write_text(await explained(url, calls, users))
    await line.close()
    await owner.close()
    return all(many[name] <= LIMIT * few[name] for name in calls)
