"""`make migrate`: brings the database of DATABASE_URL to the schema of this folder, whole or not at all.

DATABASE_URL is the operator's address of a database: on Supabase the direct connection or the session pooler, as
`postgres`. It says what it will do, then does it; with PLAN=1 it only says. The exit status is 0 when that is done, 1
when the database is as it was before, and 2 for a DATABASE_URL that is missing or no address.
"""

from __future__ import annotations

import asyncio
import os
import sys
from urllib.parse import urlsplit

import asyncpg

from local import schema

UNCHANGED = "Nothing was changed."
NAMED = 12
"""Functions that are told by name; more by their number."""


async def migrate(url: str, *, only_plan: bool) -> None:
    """Say what is to be done, and do it unless that is all. Raises as schema.apply does."""
    print(f"Database {urlsplit(url).path.strip('/')} at {urlsplit(url).hostname}:")
    if only_plan:
        tell(await schema.plan(url))
        print(f"{UNCHANGED} Without PLAN=1 this is done in one transaction.")
        return
    await schema.apply(url, tell=tell)
    print("Done.")


def tell(plan: schema.Plan) -> None:
    """Say what is there and what comes."""
    print(f"  migrations    {plan.done} applied, {len(plan.migrations) or 'none'} to come")
    for file in plan.migrations:
        print(f"    {file.stem.replace('_', '  ', 1)}")
    print(f"  functions     {len(plan.functions.all)}, which are replaced at once")
    for what in ("added", "changed", "removed"):
        if names := getattr(plan.functions, what):
            print(f"    {what:<10}  {', '.join(names) if len(names) <= NAMED else len(names)}")


def main() -> int:
    """Migrate as the environment says; returns the exit status."""
    url = os.environ.get("DATABASE_URL", "")
    if not _is_address(url):
        # it may hold a password, whatever else it is
        print("Set DATABASE_URL to the operator's address of a database: postgresql://user:password@host:port/name")
        return 2
    try:
        asyncio.run(migrate(url, only_plan=os.environ.get("PLAN") == "1"))
    except (schema.Unfit, asyncpg.PostgresError, asyncpg.InterfaceError, OSError) as error:
        print(_told(error))
        return 1
    return 0


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        return parts.scheme in ("postgresql", "postgres") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        return False


def _told(error: Exception) -> str:
    match error:
        case asyncpg.LockNotAvailableError():
            busy = f"A table was in use for {schema.LOCK_TIMEOUT_MS} ms."
            return f"{busy} {UNCHANGED} Run this again at a quieter moment."
        case schema.Unfit() | asyncpg.PostgresError():
            return "\n".join([str(error), *getattr(error, "__notes__", []), UNCHANGED])
        case _:
            return f"There is no connection: {error}. Run this again: it finds out by itself what is done."


if __name__ == "__main__":
    sys.exit(main())
