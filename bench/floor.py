"""The floor: the least that a Python gateway with accounts can do for a chat completion, and nothing more.

FastAPI; a Postgres round trip that checks the key, counts the request and holds credit; the upstream call; a
round trip that settles. No validation, no routing, no retries: no product, but what one is measured against.

    DATABASE_URL=… UPSTREAM_URL=http://127.0.0.1:…/v1 uvicorn bench.floor:app
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import asyncpg
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

KEY = "sk-floor"
UPSTREAM = os.environ.get("UPSTREAM_URL", "") + "/chat/completions"
HEADERS = {"authorization": "Bearer sk-upstream", "content-type": "application/json"}
USAGE = b'"usage":{'
AUTHORIZE = "select * from floor_authorize($1, 0.01, 1000000000)"
SETTLE = "select floor_settle($1, $2, $3, 0.0001)"

SCHEMA = """
create table if not exists floor_keys (
  hash bytea primary key, user_id bigint not null, active bool not null default true);
create table if not exists floor_credits (
  user_id bigint primary key, balance numeric not null, held numeric not null);
create table if not exists floor_rate (
  user_id bigint, minute bigint, n int not null, primary key (user_id, minute));
create table if not exists floor_holds (
  id uuid primary key, user_id bigint not null, amount numeric not null);
create table if not exists floor_usage (
  id bigint generated always as identity primary key, hold uuid unique, user_id bigint,
  prompt int, completion int, cost numeric, at timestamptz not null default now());

create or replace function floor_authorize(key bytea, amount numeric, most int)
returns table (hold uuid, refusal text) language plpgsql as $$
declare
  owner bigint;
  requests int;
  fresh uuid := gen_random_uuid();
begin
  select user_id into owner from floor_keys where hash = key and active;
  if owner is null then return query select null::uuid, 'key'; return; end if;
  insert into floor_rate values (owner, extract(epoch from now())::bigint / 60, 1)
    on conflict (user_id, minute) do update set n = floor_rate.n + 1 returning n into requests;
  if requests > most then return query select null::uuid, 'rate'; return; end if;
  update floor_credits set held = held + amount where user_id = owner and balance - held >= amount;
  if not found then return query select null::uuid, 'credits'; return; end if;
  insert into floor_holds values (fresh, owner, amount);
  return query select fresh, '';
end $$;

create or replace function floor_settle(which uuid, prompt int, completion int, price numeric)
returns void language plpgsql as $$
declare
  owner bigint;
  amount numeric;
begin
  delete from floor_holds h where h.id = which returning h.user_id, h.amount into owner, amount;
  if not found then return; end if;
  update floor_credits c set held = c.held - amount, balance = c.balance - price where c.user_id = owner;
  insert into floor_usage (hold, user_id, prompt, completion, cost)
    values (which, owner, prompt, completion, price);
end $$;

insert into floor_credits values (1, 1000000000, 0) on conflict do nothing;
"""


def digest(key: str) -> bytes:
    """What is stored of a key."""
    return hashlib.sha256(key.encode()).digest()


async def no_reset(_: asyncpg.Connection) -> None:
    """Nothing: the pool's own reset would be one more round trip each time."""


@dataclass(slots=True)
class Floor:
    """The two doors that are open for the life of the process, and the settlements under way."""

    database: asyncpg.Pool
    upstream: aiohttp.ClientSession
    settling: set[asyncio.Task[Any]] = field(default_factory=set)

    async def authorize(self, key: str) -> asyncpg.Record | None:
        return await self.database.fetchrow(AUTHORIZE, digest(key))

    async def settle(self, hold: object, usage: dict[str, int]) -> None:
        tokens = usage.get("prompt_tokens", 0), usage.get("completion_tokens", 0)
        await self.database.execute(SETTLE, hold, *tokens)

    async def settle_surely(self, hold: object, usage: dict[str, int]) -> None:
        """Settle in a task of its own: a client that leaves cancels the stream, and must not cancel this."""
        task = asyncio.ensure_future(self.settle(hold, usage))
        self.settling.add(task)
        task.add_done_callback(self.settling.discard)
        await asyncio.shield(task)

    async def stream(self, hold: object, body: bytes) -> AsyncIterator[bytes]:
        tail = b""
        try:
            async with self.upstream.post(UPSTREAM, data=body, headers=HEADERS) as answer:
                async for piece in answer.content.iter_any():
                    tail = (tail + piece)[-1024:]
                    yield piece
        finally:
            await self.settle_surely(hold, last_usage(tail))


def last_usage(tail: bytes) -> dict[str, int]:
    """The last `usage` object in the end of a stream, empty when there is none."""
    at = tail.rfind(USAGE)
    if at < 0:
        return {}
    usage: dict[str, int] = json.loads(tail[at + len(USAGE) - 1 : tail.index(b"}", at) + 1])
    return usage


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Open both doors for the life of the process."""
    async with (
        asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=1, max_size=10, reset=no_reset) as database,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=60)
        ) as upstream,
    ):
        await database.execute(SCHEMA)
        await database.execute("insert into floor_keys values ($1, 1) on conflict do nothing", digest(KEY))
        app.state.floor = Floor(database, upstream)
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/v1/chat/completions")
async def complete(request: Request) -> Response:
    """Authorise, ask the upstream, settle."""
    floor: Floor = request.app.state.floor
    body = json.loads(await request.body())
    key = request.headers.get("authorization", "").removeprefix("Bearer ")
    hold, refusal = await floor.authorize(key) or (None, "key")
    if refusal:
        return JSONResponse({"error": {"message": "refused", "type": refusal}}, 401)
    content = json.dumps(body).encode()
    if body.get("stream"):
        return StreamingResponse(floor.stream(hold, content), media_type="text/event-stream")
    async with floor.upstream.post(UPSTREAM, data=content, headers=HEADERS) as answer:
        raw = await answer.read()
    await floor.settle(hold, json.loads(raw).get("usage") or {})
    return Response(raw, status_code=answer.status, media_type="application/json")
