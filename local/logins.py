"""`make logins STAGE=production`: gives every function's database role a password of its own, anew at each run.

It needs the stage's stack, deployed with logins, and DATABASE_URL, the operator's address of its database as `make
migrate` takes it. For each role it makes a password that nobody sees, stores the address with it in the function's own
secret (its LOGIN_SECRET_ARN), tells the database, and logs in to see that it works. The address is that of the
core secret's DATABASE_URL with another user and password.

A role has one password at a time. Between the two writes, a moment, and for longer if this program is stopped between
them, an environment of the function that starts cannot log in; run it again, and all is well. Environments that run
keep the connections they have and cannot open further ones with the password they have read, so callers would be told
503 now and then until Lambda replaces them, which may take hours. Therefore each function is started afresh.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import os
import secrets
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import asyncpg

from local import schema
from local.stack import GROUPS, NoStack, Stack, function_of, of_stage

if TYPE_CHECKING:
    from asyncpg import Connection

POINTER = "LOGIN_SECRET_ARN"
"""The variable of a function that names its own secret."""
ITERATIONS = 4096
"""As Postgres itself takes for a SCRAM password (scram_iterations)."""


class NoLogins(NoStack):
    """Something that logins need is missing; every password is as it was."""


async def give(operator_url: str, stack: Stack) -> None:
    """New passwords for all roles, one after the other. Raises NoLogins before the first is changed, and
    asyncpg.PostgresError or OSError when the database refuses: those told of until then are done."""
    core, pointers = _addresses(stack)
    connection = await asyncpg.connect(operator_url)
    try:
        await _check(connection)
        for group in GROUPS:
            password = secrets.token_urlsafe(32)
            url = address(core, schema.role(group), password)
            stack.store(pointers[group], {"DATABASE_URL": url})
            # a verifier, because a statement with the password itself may be logged
            await connection.execute(f"alter role {schema.role(group)} password '{verifier(password)}'")
            await (await asyncpg.connect(url, statement_cache_size=0)).close()
            stack.restart(group)
            print(f"  {schema.role(group):<24} has a new password, and its function starts afresh")
    finally:
        await connection.close()


def _addresses(stack: Stack) -> tuple[str, dict[str, str]]:
    """The core secret's DATABASE_URL, and where each group's own secret is. Raises NoLogins."""
    pointers = {group: stack.variables[group].get(POINTER, "") for group in GROUPS}
    if missing := [function_of(group) for group in GROUPS if not pointers[group]]:
        raise NoLogins(f"{', '.join(missing)} of {stack.name} has no {POINTER}: deploy it with logins first.")
    core = stack.secret(stack.variables[GROUPS[0]]["CORE_SECRET_ARN"]).get("DATABASE_URL")
    if not core:
        raise NoLogins("The core secret has no DATABASE_URL; logins are for the postgres transport.")
    return core, pointers


async def _check(connection: Connection) -> None:
    roles = {schema.role(group) for group in GROUPS}
    rows = await connection.fetch("select rolname from pg_roles where rolcanlogin and rolname = any ($1)", list(roles))
    if missing := sorted(roles - {row["rolname"] for row in rows}):
        raise NoLogins(f"The database has no logins for {', '.join(missing)}: run `make migrate` first.")


def address(core: str, role: str, password: str) -> str:
    """An address with another user, who keeps the project that Supabase's pooler wants to know: role.project."""
    parts = urlsplit(core)
    _, dot, project = (parts.username or "").partition(".")
    place = parts.netloc.rpartition("@")[2]
    return parts._replace(netloc=f"{role}{dot}{project}:{password}@{place}").geturl()


def verifier(password: str) -> str:
    """What Postgres stores of a password (RFC 5803), for which it need not see the password."""
    salt = secrets.token_bytes(16)
    salted = hashlib.pbkdf2_hmac("sha256", password.encode(), salt, ITERATIONS)
    client = hashlib.sha256(hmac.digest(salted, b"Client Key", "sha256")).digest()
    server = hmac.digest(salted, b"Server Key", "sha256")
    salt64, client64, server64 = (base64.b64encode(part).decode() for part in (salt, client, server))
    return f"SCRAM-SHA-256${ITERATIONS}:{salt64}${client64}:{server64}"


def main(stage: str) -> int:
    """Give logins as the environment says; returns the exit status."""
    url = os.environ.get("DATABASE_URL")
    if not url:
        print("Set DATABASE_URL to the operator's address.")
        return 2
    try:
        stack = of_stage(stage)
        print(f"Stack {stack.name}:")
        asyncio.run(give(url, stack))
    except NoStack as reason:
        print(reason)
        return 1
    except (asyncpg.PostgresError, OSError) as error:
        print(f"{error}\nThe functions that are not listed above may be unable to log in: run this again.")
        return 1
    print("Done.")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
