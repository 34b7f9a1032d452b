"""One embedded Postgres for all tests, and a fresh database with the product's schema for each that asks."""

from __future__ import annotations

import asyncio
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import msgspec
import pytest

from local import postgres, schema

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

TEMPLATE = "template_gateway"

SUPABASE_ROLES = """
create role anon nologin noinherit;
create role authenticated nologin noinherit;
create role service_role nologin noinherit bypassrls;
create role authenticator login noinherit;
"""
"""As every Supabase project has them, `noinherit` included, before our migrations run."""


class Database(msgspec.Struct, frozen=True):
    """Addresses of one test's own database."""

    admin: str
    """As the operator, a superuser."""
    service: str
    """As all functions may log in: `gateway`, a member of service_role."""

    def login(self, group: str) -> str:
        """As one function logs in, with the role of its group."""
        return self.admin.replace("//postgres@", f"//{schema.role(group)}@")

    async def execute(self, script: str) -> None:
        """Runs a script as the operator."""
        connection = await asyncpg.connect(self.admin)
        try:
            await connection.execute(script)
        finally:
            await connection.close()


def binaries() -> Path:
    """The Postgres to test with: POSTGRES_BIN, else what a developer's machine would run."""
    return Path(os.environ["POSTGRES_BIN"]) if "POSTGRES_BIN" in os.environ else postgres.binaries()


async def prepare(server: postgres.Server) -> None:
    """What a Supabase project has before our schema, and the functions' login."""
    connection = await asyncpg.connect(server.url())
    try:
        await connection.execute(SUPABASE_ROLES)
    finally:
        await connection.close()
    await schema.admit_functions(server.url())


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[postgres.Server]:
    """A running Postgres that holds the template of every test's database."""
    started = postgres.Server(binaries(), tmp_path_factory.mktemp("postgres") / "data", durable=False)
    started.start()
    try:
        asyncio.run(_make_template(started))
        yield started
    finally:
        started.stop()


@pytest.fixture
async def database(server: postgres.Server) -> AsyncIterator[Database]:
    """A database of its own, whose ledger must be whole when the test is over."""
    name = f"test_{secrets.token_hex(4)}"
    operator = await asyncpg.connect(server.url())
    try:
        await operator.execute(f"create database {name} template {TEMPLATE}")
        if await operator.fetchval("select true from pg_roles where rolname = 'gateway_owner'"):
            # a database's own grants are no part of its template
            await operator.execute(f"grant create on database {name} to gateway_owner")
        try:
            yield Database(server.url(name), server.url(name, schema.FUNCTIONS_LOGIN))
            assert await _violations(server.url(name)) == []
        finally:
            await operator.execute(f"drop database {name} with (force)")
    finally:
        await operator.close()


async def _make_template(server: postgres.Server) -> None:
    await prepare(server)
    operator = await asyncpg.connect(server.url())
    try:
        await operator.execute(f"create database {TEMPLATE}")
    finally:
        await operator.close()
    await schema.apply(server.url(TEMPLATE))


async def _violations(url: str) -> list[tuple[str, str]]:
    """Rules of the ledger that the database breaks, with what breaks them."""
    # whatever a test has set for its database
    connection = await asyncpg.connect(url, server_settings={"statement_timeout": "0"})
    try:
        if not await connection.fetchval("select to_regclass('gateway.ledger_violations') is not null"):
            return []
        rows = await connection.fetch("select * from gateway.ledger_violations")
        return [tuple(row) for row in rows]
    finally:
        await connection.close()
