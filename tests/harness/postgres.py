"""One embedded Postgres for each worker, and a fresh database with the product's schema for each test that asks."""

from __future__ import annotations

import asyncio
import os
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import msgspec
import pytest

from local import postgres, schema, seed
from tests.harness.databases import Databases
from tests.harness.scratch import scratch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

EMPTY, SEEDED = "template_gateway", "template_seeded"
"""The schema alone; and with the seed's models, customer and operator in it."""
WANT_SEED = {"gateway", "customer"}
"""Fixtures whose test finds the seed in its database."""
SPARE_MONTHS = """
do $$
declare month regclass;
begin
  for month in
    select c.oid from pg_inherits i join pg_class c on c.oid = i.inhrelid
     where i.inhparent = 'gateway.usage_records'::regclass
       and c.relname ~ '^usage_records_[0-9]{4}_[0-9]{2}$'
       and to_date(right(c.relname, 7), 'YYYY_MM')
           not between date_trunc('month', now(), 'UTC') and date_trunc('month', now(), 'UTC') + interval '6 months'
  loop
    execute format('drop table %s', month);
  end loop;
end $$;
"""
"""Drops the months of usage that api.add_months does not ask for: each is five files to copy for every test."""

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
    seeded: seed.Seeded | None = None
    """The keys of the seed, where it is in the database already."""

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


@contextmanager
def running(folder: Path) -> Iterator[tuple[postgres.Server, Path]]:
    """A new server with the binaries in `folder`, and its data folder; both are gone when the block ends."""
    with scratch("postgres") as place:
        started = postgres.Server(folder, place / "data", durable=False)
        started.start()
        try:
            yield started, place / "data"
        finally:
            started.stop()


@pytest.fixture(scope="session")
def server() -> Iterator[postgres.Server]:
    """A running Postgres of this worker's own."""
    with running(binaries()) as (started, _):
        asyncio.run(prepare(started))
        yield started


class Templates(msgspec.Struct, frozen=True):
    """What a test's database may be a copy of, and the keys that are in the seeded one."""

    databases: Databases
    seeded: seed.Seeded


@pytest.fixture(scope="session")
def templates(server: postgres.Server) -> Iterator[Templates]:
    """Databases to be had, like the template of either kind."""
    seeded = asyncio.run(_make_templates(server))
    databases = Databases(server)
    try:
        yield Templates(databases, seeded)
    finally:
        databases.close()


@pytest.fixture
async def database(
    request: pytest.FixtureRequest, server: postgres.Server, templates: Templates
) -> AsyncIterator[Database]:
    """A database of its own, whose ledger must be whole when the test is over."""
    seeded = templates.seeded if WANT_SEED.intersection(request.fixturenames) else None
    name = await templates.databases.take(SEEDED if seeded else EMPTY)
    try:
        yield Database(server.url(name), server.url(name, schema.FUNCTIONS_LOGIN), seeded)
        assert await _violations(server.url(name)) == []
    finally:
        templates.databases.give_back(name)


async def _make_templates(server: postgres.Server) -> seed.Seeded:
    operator = await asyncpg.connect(server.url())
    try:
        await operator.execute(f"create database {EMPTY}")
        await schema.apply(server.url(EMPTY))
        await Database(server.url(EMPTY), "").execute(SPARE_MONTHS)
        await operator.execute(f"create database {SEEDED} template {EMPTY}")
        return await seed.seed(server.url(SEEDED))
    finally:
        await operator.close()


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
