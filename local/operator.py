"""`make operator NAME=…`: an operator with a key, for a database that has nobody yet who could make one.

STAGE, KEY_PEPPERS (the functions' own) and DATABASE_URL (the database's owner's) come from the environment. The key is
shown once. Whoever may run this has the database anyway; all others are made over HTTP, by an operator.
"""

from __future__ import annotations

import asyncio
import sys

import asyncpg

from gateway.scopes import Scope
from gateway.settings import settings
from local import seed


async def main(name: str) -> None:
    """Make the operator and show the key. Exits when the name is taken."""
    assert settings.database_url, "the settings demand one of the two, and Supabase's door makes no operators"
    connection = await asyncpg.connect(settings.database_url.reveal())
    try:
        async with connection.transaction():
            user_id = await seed.add_user(connection, name, "admin")
            key = await seed.add_key(connection, user_id, settings.key_environment, tuple(Scope))
    except asyncpg.PostgresError as error:
        if (error.sqlstate or "").startswith("PT"):
            sys.exit(f"{name} is not to be had: there is somebody of that name, or it is no name.")
        raise
    finally:
        await connection.close()
    print(f"{name} is user {user_id} with the role admin. This key is not shown again:\n{key.plaintext}")


if __name__ == "__main__":
    if len(sys.argv) != 2 or not sys.argv[1]:
        sys.exit("Say whom: make operator NAME=…")
    asyncio.run(main(sys.argv[1]))
