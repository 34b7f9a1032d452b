"""Fills the database of DATABASE_URL and prints a JSON list of keys: python -m chaos.people COUNT.

It is a process of its own, because the gateway's settings are read from the environment when it is imported.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys

import asyncpg

from bench.product import open_account
from local import schema, seed

CREDIT_NANO = 10**15


async def people(url: str, count: int) -> list[str]:
    """The schema, a model and this many users with credit; a key of each."""
    await schema.apply(url)
    await schema.admit_functions(url)
    await open_account(url)
    connection = await asyncpg.connect(url)
    try:
        users = [await seed.add_user(connection, f"user-{n}", credit_nano=CREDIT_NANO) for n in range(count)]
        return [(await seed.add_key(connection, user)).plaintext for user in users]
    finally:
        await connection.close()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(people(os.environ["DATABASE_URL"], int(sys.argv[1])))))
