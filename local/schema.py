"""Brings a database to the schema in supabase/: each migration once, then the functions of schema `api` anew.

All of it is one transaction after checks that change nothing, so a database has either the whole of a version or
nothing of it. The migrations done are recorded where the Supabase CLI records them, so that either may be used on the
same project.
"""

from __future__ import annotations

import re
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import asyncpg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from asyncpg import Connection

SUPABASE = Path(__file__).parent.parent / "supabase"
FUNCTIONS_LOGIN = "gateway"
OLDEST_POSTGRES = 15
TRANSACTION_POOLER_PORT = 6543
LOCK_TIMEOUT_MS = 5000
"""A change of a table waits this long for who uses it, and everybody who comes after waits behind it."""
OWN_TRANSACTION = re.compile(r"^\s*(begin|commit|rollback)\s*;\s*$", re.IGNORECASE | re.MULTILINE)
FUNCTION = re.compile(r"^create function api\.(\w+)\(.*?\bas \$\$(.*?)\$\$", re.MULTILINE | re.DOTALL)

RECORD = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
  version text primary key,
  statements text[],
  name text
);
"""
"""The Supabase CLI's own table (its pkg/migration/history.go)."""


class Unfit(RuntimeError):
    """The database cannot be brought to this schema. The message says why and what to do; nothing was changed."""


class Functions(NamedTuple):
    """The functions of `api` by name, compared with those that are there: all are replaced, these differ."""

    all: list[str]
    added: list[str]
    changed: list[str]
    removed: list[str]


class Plan(NamedTuple):
    """What applying does to a database."""

    done: int
    """Migrations that were applied before."""
    migrations: list[Path]
    functions: Functions


async def plan(url: str, folder: Path = SUPABASE) -> Plan:
    """What `apply` would do, and changes nothing. Raises as `apply` does."""
    async with _session(url) as connection:
        return await _planned(connection, folder)


async def apply(url: str, folder: Path = SUPABASE, tell: Callable[[Plan], None] = lambda _: None) -> list[str]:
    """Applies what the database lacks of `folder`/migrations, then `folder`/api; returns the new versions.

    `tell` hears of the plan before anything is done. Two at a time wait for each other. Raises Unfit, and
    asyncpg.PostgresError with the file's name noted; then the database is as it was.
    """
    async with _session(url) as connection:
        await connection.execute("select pg_advisory_lock(hashtext('gateway schema'))")
        what = await _planned(connection, folder)
        tell(what)
        async with connection.transaction():
            await connection.execute(RECORD)
            for file in what.migrations:
                await _run(connection, file.name, file.read_text())
                await _record(connection, file)
            if (entry := folder / "api" / "apply.sql").exists():
                await _run(connection, entry.name, OWN_TRANSACTION.sub("", included(entry)))
    return [_version(file) for file in what.migrations]


async def admit_functions(url: str) -> None:
    """Lets all functions log in as `gateway`, a member of service_role. For a server of our own; once per server."""
    connection = await asyncpg.connect(url)
    try:
        if not await connection.fetchval("select true from pg_roles where rolname = $1", FUNCTIONS_LOGIN):
            await connection.execute(f"create role {FUNCTIONS_LOGIN} login in role service_role")
    finally:
        await connection.close()


def role(group: str) -> str:
    """The database role that a group's function logs in as."""
    return f"gateway_{group}"


def included(script: Path) -> str:
    r"""A psql script with its `\i` and `\ir` files in place and its other backslash commands left out."""
    return "\n".join(_lines(script))


def _lines(script: Path) -> list[str]:
    lines: list[str] = []
    for line in script.read_text().splitlines():
        if include := re.fullmatch(r"\\ir?\s+'?([^'\s]+)'?\s*", line):
            lines += _lines(script.parent / include[1])
        elif not line.startswith("\\"):
            lines.append(line)
    return lines


@asynccontextmanager
async def _session(url: str) -> AsyncIterator[Connection]:
    """A connection that is one session from its beginning to its end."""
    if urlsplit(url).port == TRANSACTION_POOLER_PORT:
        raise Unfit(
            f"Port {TRANSACTION_POOLER_PORT} is Supabase's pooler in transaction mode, which keeps no session. "
            "Take the address of the session pooler (the same host, port 5432) or of the direct connection."
        )
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


# ------------------------------------------------------------------------------------------------------------- checks


async def _planned(connection: Connection, folder: Path) -> Plan:
    """The plan for a database that passes every check. Raises Unfit for one that does not."""
    await _check_server(connection)
    files = {_version(file): file for file in sorted((folder / "migrations").glob("*.sql"))}
    done = await _recorded(connection)
    _check_history(files, done)
    pending = [file for version, file in files.items() if version not in done]
    for file in pending:
        if OWN_TRANSACTION.search(file.read_text()):
            raise Unfit(f"{file.name} begins or ends a transaction: all of an upgrade is one, so it may not.")
    return Plan(len(done), pending, await _compared(connection, folder / "api" / "apply.sql"))


async def _check_server(connection: Connection) -> None:
    version = connection.get_server_version()
    if version.major < OLDEST_POSTGRES:
        raise Unfit(f"This is Postgres {version.major}; {OLDEST_POSTGRES} is the oldest that will do.")
    may = await connection.fetchrow(
        "select rolname, rolcreaterole or rolsuper as roles, has_database_privilege(current_database(), 'create') as"
        " schemas from pg_roles where rolname = current_user"
    )
    assert may, "the current user is a role"
    if not (may["roles"] and may["schemas"]):
        raise Unfit(f"{may['rolname']} may not create roles and schemas here. Log in as the database's operator.")


async def _recorded(connection: Connection) -> dict[str, str | None]:
    """The versions applied with their text, which the Supabase CLI splits into statements and may leave out."""
    if not await connection.fetchval("select to_regclass('supabase_migrations.schema_migrations')"):
        return {}
    rows = await connection.fetch("select version, statements from supabase_migrations.schema_migrations")
    return {row["version"]: "\n".join(row["statements"]) if row["statements"] else None for row in rows}


def _check_history(files: Mapping[str, Path], done: Mapping[str, str | None]) -> None:
    """That what was applied is the beginning of what is in the folder, and was the same text."""
    if unknown := sorted(done.keys() - files.keys()):
        raise Unfit(
            f"Migrations were applied that are not in this folder: {', '.join(unknown)}. The database belongs to a "
            "later version of the gateway, or to something else; use the code that goes with it."
        )
    for version, text in sorted(done.items()):
        if text is not None and _normal(text) != _normal(files[version].read_text()):
            raise Unfit(
                f"{files[version].name} is not what was applied under its number: the file was changed since. Bring "
                "the released file back, and write what shall change into a later migration."
            )
    if late := [files[version].name for version in files if version not in done and version < max(done, default="")]:
        raise Unfit(f"{', '.join(late)} should have come before migrations that are applied. Give it a later number.")


def _normal(text: str) -> str:
    """A script without what splitting it into statements takes away."""
    return re.sub(r"[\s;]+", "", text)


async def _compared(connection: Connection, entry: Path) -> Functions:
    rows = await connection.fetch("select proname, prosrc from pg_proc where pronamespace = to_regnamespace('api')")
    there = _by_name([(row["proname"], row["prosrc"]) for row in rows])
    here = _by_name(FUNCTION.findall(included(entry))) if entry.exists() else {}
    return Functions(
        all=sorted(here),
        added=sorted(here.keys() - there.keys()),
        changed=sorted(name for name in here.keys() & there.keys() if here[name] != there[name]),
        removed=sorted(there.keys() - here.keys()),
    )


def _by_name(functions: list[tuple[str, str]]) -> dict[str, list[str]]:
    """The bodies of the functions of each name."""
    bodies: dict[str, list[str]] = {}
    for name, body in functions:
        bodies[name] = sorted([*bodies.get(name, []), body])
    return bodies


# ------------------------------------------------------------------------------------------------------------ applying


async def _record(connection: Connection, file: Path) -> None:
    version = _version(file)
    await connection.execute(
        "insert into supabase_migrations.schema_migrations (version, statements, name) values ($1, $2, $3)",
        version,
        [file.read_text()],
        file.stem.removeprefix(f"{version}_"),
    )


def _version(file: Path) -> str:
    return file.stem.partition("_")[0]


async def _run(connection: Connection, name: str, text: str) -> None:
    """Runs a script as one message, then takes back what it set for the session, its role above all."""
    await connection.execute(f"set lock_timeout = {LOCK_TIMEOUT_MS}")
    try:
        await connection.execute(text)
    except asyncpg.PostgresError as error:
        error.add_note(f"in {name}{_place(error, text)}")
        raise
    await connection.execute("reset role; reset all")


def _place(error: asyncpg.PostgresError, text: str) -> str:
    """The line that Postgres points at, in words: its number means little once files were put together."""
    position = getattr(error, "position", None)
    return f", at: {text[: int(position)].splitlines()[-1]}{text[int(position) :].splitlines()[0]}" if position else ""
