"""The gateway as it is measured: container mode, postgres transport, the fake upstream as its OpenRouter.

python -m bench.product      # prepares the database of DATABASE_URL and prints a key
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

import asyncpg

from bench.processes import ROOT, NotStarted, inherited
from local import schema

APP = "chat.handler:app"
# Limits that are never reached: they are evaluated all the same.
ACCOUNT = """
with plan as (
  update gateway.plans set requests_per_minute = 100000000, tokens_per_minute = 100000000000, concurrency = 1000),
model as (
  insert into gateway.models (id, name, context_length, max_output_tokens)
  values ('bench/model', 'Bench', 128000, 4096) returning id),
offer as (
  insert into gateway.offers (model_id, provider, upstream_id, prompt_price, completion_price)
  select id, 'openrouter', id, 100000000, 400000000 from model)
select (api.create_user('bench', null, 'user', $1)->>'user_id')::bigint
"""
ACTOR = '{"name": "bench", "scopes": ["inference", "account:read", "account:write", "keys:write"]}'
CREDIT = "select api.grant($1, 'bench', 1000000000000000, 'bench', $2)"
KEY = "select api.create_key($1, $2, $3, $4, $5, 'bench', $6, $7)"


def settings(database_url: str, upstream: int) -> dict[str, str]:
    """The environment that the gateway is started with."""
    return {
        "PYTHONPATH": os.pathsep.join(str(ROOT / folder) for folder in (".", "shared", "functions")),
        "STAGE": "dev",
        "DATABASE_URL": database_url,
        "KEY_PEPPERS": "v1:pepper-of-the-benchmark",
        "OPENROUTER_API_KEY": "sk-upstream",
        "OPENROUTER_BASE_URL": f"http://127.0.0.1:{upstream}/v1",
    }


async def prepared(owner: dict[str, str]) -> str:
    """Make the schema and an account as the database's owner; the account's key. Raises NotStarted."""
    await schema.apply(owner["DATABASE_URL"])
    await schema.admit_functions(owner["DATABASE_URL"])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, cwd=ROOT, env=inherited(owner), stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate()
    if process.returncode:
        raise NotStarted("its database could not be prepared")
    return output.decode().strip()


async def open_account(database_url: str) -> str:
    """A user with credit, a key, and the model `bench/model` at a price. The key."""
    from gateway import keys  # noqa: PLC0415 - it reads the settings of the environment when it is imported

    key = keys.mint("dev")
    connection = await asyncpg.connect(database_url)
    try:
        user = await connection.fetchval(ACCOUNT, ACTOR)
        await connection.execute(CREDIT, user, ACTOR)
        scopes = json.dumps(["inference", "account:read"])
        await connection.execute(KEY, user, key.id, key.hash, key.last_four, key.environment, scopes, ACTOR)
    finally:
        await connection.close()
    return key.plaintext


if __name__ == "__main__":
    print(asyncio.run(open_account(os.environ["DATABASE_URL"])))
