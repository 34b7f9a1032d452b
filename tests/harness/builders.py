"""Users, keys, models and requests for tests, made as the operator; and the functions' way to the database."""

from __future__ import annotations

import itertools
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import asyncpg
import msgspec
import pytest

from gateway import database as door
from gateway.database.postgres import CONNECTIONS, Postgres
from gateway.errors import GatewayError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from datetime import date

    from tests.harness.postgres import Database

type Connection = asyncpg.Connection[asyncpg.Record]
type Call = Callable[..., Awaitable[Any]]

UNLIMITED = "update gateway.plans set requests_per_minute = null, tokens_per_minute = null, concurrency = null"
PROVIDERS = ["openrouter", "portkey", "featherless", "chutes", "sandbox"]
PROMPT_PRICE = 1_000_000_000
COMPLETION_PRICE = 2_000_000_000
"""Nano-dollars per million tokens, of every offer that does not say otherwise: 1000 and 2000 a token."""
TEST = '{"name": "test"}'
"""The actor of what tests do."""
REPORTED = {f"gateway.{name}" for name in ("alerts", "outbox", "audit_logs", "audit_chain", "audit_days")}
"""The tables that are written when somebody asks for more than he has."""
BOUND = 30_000
"""What `a_request` can cost at these prices, in nano-dollars."""


class Caller(msgspec.Struct, frozen=True):
    """A user and one key of its own."""

    user_id: int
    key_id: int
    public_id: str
    key_hash: str


@pytest.fixture
async def operator(database: Database) -> AsyncIterator[Connection]:
    """A superuser's connection to the test's database, which sells one model, `acme/one`, and limits nobody."""
    connection = await asyncpg.connect(database.admin)
    try:
        await connection.execute(UNLIMITED)
        await a_model(connection, "acme/one")
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def service(database: Database) -> AsyncIterator[Postgres]:
    """The test's database for `gateway.database.call`, as the functions log in."""
    transport = Postgres(database.service)
    door.use(transport)
    yield transport
    await door.close()


@asynccontextmanager
async def crowd(url: str, connections: int = 64) -> AsyncIterator[Call]:
    """A `call` over this many connections that raises `Failure` at once: nothing is tried again."""
    transports = [Postgres(url) for _ in range(-(-connections // CONNECTIONS))]
    turns = itertools.cycle(transports)
    try:
        yield lambda name, **arguments: next(turns).call(name, arguments)
    finally:
        for transport in transports:
            await transport.close()


async def insert(operator: Connection, table: str, **columns: Any) -> asyncpg.Record:
    """A row of a table, as it was stored."""
    marks = ", ".join(f"${number}" for number, _ in enumerate(columns, 1))
    statement = f"insert into gateway.{table} ({', '.join(columns)}) values ({marks}) returning *"  # noqa: S608
    row = await operator.fetchrow(statement, *columns.values())
    assert row is not None
    return row


async def a_user(operator: Connection, *, credit_nano: int = 100 * BOUND, **columns: Any) -> int:
    """A user with this much credit, from a grant."""
    name = f"user-{secrets.token_hex(4)}"
    user_id: int = (await insert(operator, "users", username=name, **columns))["id"]
    if credit_nano:
        await operator.execute("select api.grant($1, $2, $3, 'test', $4)", user_id, name, credit_nano, TEST)
    return user_id


async def a_key(operator: Connection, user_id: int, **columns: Any) -> Caller:
    """A key of a user's; `columns` are those of api_keys."""
    digest = f"v1:{secrets.token_hex(32)}"
    own = {"public_id": secrets.token_hex(6), "key_hash": digest, "environment": "dev", "name": f"key {digest[3:9]}"}
    row = await insert(operator, "api_keys", user_id=user_id, **own | columns)
    return Caller(user_id, row["id"], row["public_id"], row["key_hash"])


async def a_caller(operator: Connection, *, credit_nano: int = 100 * BOUND, **columns: Any) -> Caller:
    """A user with this much credit and a key with these columns."""
    return await a_key(operator, await a_user(operator, credit_nano=credit_nano), **columns)


async def a_model(operator: Connection, model_id: str, *providers: str, **columns: Any) -> None:
    """A model with an offer by each of `providers` (openrouter); `columns` are those of offers."""
    await insert(operator, "models", id=model_id, name=model_id, context_length=8192, max_output_tokens=1000)
    for provider in providers or ("openrouter",):
        await an_offer(operator, model_id, provider, **columns)


async def an_offer(operator: Connection, model_id: str, provider: str, **columns: Any) -> None:
    own = {"prompt_price": PROMPT_PRICE, "completion_price": COMPLETION_PRICE, "upstream_id": model_id}
    await insert(operator, "offers", model_id=model_id, provider=provider, **own | columns)


async def used(operator: Connection, caller: Caller, day: date, cost_nano: int) -> None:
    """A request that a key made on a day, as settle counts it."""
    await operator.execute(
        "insert into gateway.key_usage as k"
        " (key_id, day, requests, prompt_tokens, completion_tokens, cost_nano, last_used_at)"
        " select $1, d, 1, 1, 1, $3, now() from unnest(array[$2::date, '-infinity']) d on conflict (key_id, day)"
        " do update set requests = k.requests + 1, cost_nano = k.cost_nano + excluded.cost_nano",
        caller.key_id, day, cost_nano,
    )  # fmt: skip


def a_request(caller: Caller, **changes: Any) -> dict[str, Any]:
    """Arguments of authorize: ten tokens for acme/one and ten back."""
    return {
        "hold_id": str(uuid4()),
        "key_id": caller.public_id,
        "key_hashes": [caller.key_hash],
        "ip": "198.51.100.7",
        "referer": None,
        "models": ["acme/one"],
        "providers": PROVIDERS,
        "preferences": {},
        "prompt_tokens": 10,
        "expected_tokens": 20,
        "max_tokens": 10,
        "choices": 1,
        "max_cost_nano": None,
        "idempotency_key": None,
        "fingerprint": None,
    } | changes


def a_settlement(caller: Caller, hold_id: str, cost_nano: int | None = BOUND, **changes: Any) -> dict[str, Any]:
    """Arguments of settle; `changes` are to its usage, and `answer`."""
    answer = changes.pop("answer", None)
    usage = {
        "model": "acme/one",
        "provider": "openrouter",
        "prompt_tokens": 10,
        "completion_tokens": 10,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "cost_nano": cost_nano,
        "is_estimated": False,
        "is_streamed": False,
        "outcome": "completed",
        "duration_ms": 5,
    } | changes
    return {
        "hold_id": hold_id,
        "user_id": caller.user_id,
        "key_id": caller.key_id,
        "usage": usage,
        "answer": answer,
    }


def acting(caller: Caller, scope: str, *scopes: str) -> dict[str, Any]:
    """The actor of a request with a key, as the functions send it."""
    credential = {"key_id": caller.public_id, "key_hashes": [caller.key_hash], "referer": None, "scope": scope}
    return {
        "name": f"user:{caller.user_id}", "user_id": caller.user_id, "key_id": caller.key_id, "ip": "198.51.100.7",
        "request_id": f"req_{secrets.token_hex(6)}", "scopes": [scope, *scopes], "credential": credential,
    }  # fmt: skip


def of(caller: Caller, hold_id: str) -> dict[str, Any]:
    """Arguments of release."""
    return {"hold_id": hold_id, "user_id": caller.user_id, "key_id": caller.key_id}


async def dump(operator: Connection) -> dict[str, list[str]]:
    """Every row of every table, as text."""
    tables = await operator.fetch(
        "select oid::regclass::text from pg_class where relnamespace = 'gateway'::regnamespace"
        " and relkind in ('r', 'p') and not relispartition order by 1"
    )
    return {
        name: [row[0] for row in await operator.fetch(f"select t::text from {name} t order by 1")]  # noqa: S608
        for (name,) in tables
    }


async def refusal(operator: Connection, name: str = "authorize", **arguments: Any) -> GatewayError:
    """What a function refuses a call with; the call must have changed nothing at all."""
    before = await dump(operator)
    with pytest.raises(GatewayError) as caught:
        await door.call(name, **arguments)
    assert await dump(operator) == before
    return caught.value


async def purse(operator: Connection, user_id: int) -> tuple[int, int]:
    """A user's credits and held amount, in nano-dollars."""
    row = await operator.fetchrow("select credits_nano, held_nano from gateway.users where id = $1", user_id)
    assert row is not None
    return row[0], row[1]
