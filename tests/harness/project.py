"""A project of SQL of a test's own with an empty database, and servers as new Supabase projects have them."""

from __future__ import annotations

import asyncio
import secrets
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from local import postgres, schema
from tests.harness.postgres import SUPABASE_ROLES, running

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path


async def dump(url: str) -> list[str]:
    """All that a database holds, as a script, but for the marks that each dump has of its own."""
    # of the newest server here, so it reads every other
    command = [str(postgres.binaries() / "pg_dump"), url]
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    text, _ = await process.communicate()
    assert process.returncode == 0
    return [line for line in text.decode().splitlines() if not line.startswith("\\")]


@contextmanager
def supabase(binaries: Path) -> Iterator[str]:
    """A server like a new Supabase project; the address of its operator, who is no superuser there."""
    with running(binaries) as (server, _):
        asyncio.run(_prepare(server.url()))
        yield server.url(user="operator")


async def _prepare(url: str) -> None:
    """The roles of https://github.com/supabase/postgres (migrations/db), as far as a migration meets them."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(SUPABASE_ROLES)
        await connection.execute("create role operator login createrole createdb bypassrls")
        # since 16 who may create roles may not give away every other
        admin = "with admin option" if connection.get_server_version().major >= 16 else ""
        await connection.execute(f"grant anon, authenticated, service_role to operator {admin}")
        await connection.execute("alter database postgres owner to operator")
    finally:
        await connection.close()


class Project:
    """A folder like supabase/ and an empty database for it."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder = folder
        self.url = url
        (folder / "migrations").mkdir()
        (folder / "api").mkdir()

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text)

    async def apply(self) -> list[str]:
        return await schema.apply(self.url, self.folder)

    async def plan(self) -> schema.Plan:
        return await schema.plan(self.url, self.folder)

    async def dump(self) -> list[str]:
        return await dump(self.url)

    async def execute(self, script: str) -> None:
        connection = await asyncpg.connect(self.url)
        try:
            await connection.execute(script)
        finally:
            await connection.close()

    async def fetch(self, query: str) -> list[tuple[Any, ...]]:
        connection = await asyncpg.connect(self.url)
        try:
            return [tuple(row) for row in await connection.fetch(query)]
        finally:
            await connection.close()


@pytest.fixture
async def project(server: postgres.Server, tmp_path: Path) -> AsyncIterator[Project]:
    name = f"project_{secrets.token_hex(4)}"
    operator = await asyncpg.connect(server.url())
    await operator.execute(f"create database {name}")
    yield Project(tmp_path, server.url(name))
    await operator.execute(f"drop database {name} with (force)")
    await operator.close()
