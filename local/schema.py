"""Brings a database to the schema in supabase/: each migration once, then the functions of schema `api` anew.

The migrations done are recorded where the Supabase CLI records them, so that either may be used on the same
project.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from asyncpg import Connection

SUPABASE = Path(__file__).parent.parent / "supabase"
FUNCTIONS_LOGIN = "gateway"

RECORD = """
create schema if not exists supabase_migrations;
create table if not exists supabase_migrations.schema_migrations (
  version text primary key,
  statements text[],
  name text
);
"""
"""The Supabase CLI's own table (its pkg/migration/history.go)."""


async def apply(url: str, folder: Path = SUPABASE) -> list[str]:
    """Applies what the database lacks of `folder`/migrations, then `folder`/api; returns the new versions.

    Each migration is one transaction with its record, and so is the whole of `api`. Two at a time wait for
    each other. Needs a session of its own: a direct or session-mode connection, not the transaction pooler.
    Raises asyncpg.PostgresError with the file's name noted.
    """
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("select pg_advisory_lock(hashtext('gateway schema'))")
        applied = [await _migrate(connection, file) for file in await _pending(connection, folder / "migrations")]
        if (entry := folder / "api" / "apply.sql").exists():
            await _run(connection, entry, included(entry))
    finally:
        await connection.close()
    return applied


async def admit_functions(url: str) -> None:
    """Lets the functions log in as `gateway`, a member of service_role. For a server of our own; once per
    server."""
    connection = await asyncpg.connect(url)
    try:
        if not await connection.fetchval("select true from pg_roles where rolname = $1", FUNCTIONS_LOGIN):
            await connection.execute(f"create role {FUNCTIONS_LOGIN} login in role service_role")
    finally:
        await connection.close()


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


async def _pending(connection: Connection, folder: Path) -> list[Path]:
    await connection.execute(RECORD)
    rows = await connection.fetch("select version from supabase_migrations.schema_migrations")
    done = {row["version"] for row in rows}
    return [file for file in sorted(folder.glob("*.sql")) if _version(file) not in done]


async def _migrate(connection: Connection, file: Path) -> str:
    version, text = _version(file), file.read_text()
    async with connection.transaction():
        await _run(connection, file, text)
        await connection.execute(
            "insert into supabase_migrations.schema_migrations (version, statements, name) values ($1, $2, $3)",
            version,
            [text],
            file.stem.removeprefix(f"{version}_"),
        )
    return version


def _version(file: Path) -> str:
    return file.stem.partition("_")[0]


async def _run(connection: Connection, file: Path, text: str) -> None:
    """Runs a script as one message, then takes back what it set for the session, its role above all."""
    try:
        await connection.execute(text)
    except asyncpg.PostgresError as error:
        error.add_note(f"in {file.name}{_place(error, text)}")
        raise
    await connection.execute("reset role; reset all")


def _place(error: asyncpg.PostgresError, text: str) -> str:
    """The line that Postgres points at, in words: its number means little once files were put together."""
    position = getattr(error, "position", None)
    return f", at: {text[: int(position)].splitlines()[-1]}{text[int(position) :].splitlines()[0]}" if position else ""
