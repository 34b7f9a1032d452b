"""The schema on an empty database of every Postgres here, and on one that an earlier version filled."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg
import msgspec
import pytest

from gateway import database
from gateway.database.postgres import Postgres
from local import postgres, schema
from tests.harness.builders import TEST, Caller, a_caller, a_model, a_request, a_settlement
from tests.harness.postgres import binaries
from tests.harness.project import supabase

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.harness.project import Project

pytestmark = pytest.mark.process

SERVERS = list(dict.fromkeys([binaries(), *postgres.found()]))
LOGINS = "20261125000005_logins.sql"
ROOT = schema.SUPABASE.parent
OPEN = "00000000-0000-0000-0000-00000000000a"
SETTLED = "00000000-0000-0000-0000-00000000000b"
KEPT = ("users", "api_keys", "credit_transactions", "credit_grants", "credit_holds", "usage_records", "payments")
"""What an upgrade may not touch."""
GONE = {
    ("trial_of", "gateway_account"): "its function never called it",
    ("receive_event", "gateway_jobs"): "its function never called it",
    ("release", "gateway_jobs"): "its function never called it",
    ("plan", "gateway_admin"): "its function never called it",
}
"""Grants that are taken back, each with the reason why no function that still runs misses it."""
GRANTED = """
select p.proname as name, r.rolname as role, coalesce(p.proargnames[:p.pronargs], '{}') as arguments,
       p.pronargs - p.pronargdefaults as required
  from pg_proc p cross join pg_roles r
 where p.pronamespace = 'api'::regnamespace and r.rolname ~ '^(gateway_|service_role$)' and r.rolname <> 'gateway_owner'
   and has_function_privilege(r.oid, p.oid, 'execute')
"""


class Signature(NamedTuple):
    """The arguments that a function takes, and those of them that it demands."""

    arguments: frozenset[str]
    required: frozenset[str]

    def serves_calls_of(self, had: Signature) -> bool:
        """Whether every call that another signature allows is one of this, too."""
        return had.arguments <= self.arguments and self.required <= had.required


@pytest.mark.parametrize("server_binaries", SERVERS, ids=lambda folder: folder.parts[-2])
def test_an_empty_database_of_each_postgres_here(server_binaries: Path) -> None:
    """As a new Supabase project's operator, who is no superuser."""
    with supabase(server_binaries) as url:
        versions = [schema._version(file) for file in sorted((schema.SUPABASE / "migrations").glob("*.sql"))]
        assert asyncio.run(schema.apply(url)) == versions
        assert asyncio.run(schema.apply(url)) == []
        for login in (schema.role("health"), "authenticator"):
            assert asyncio.run(health(url.replace("//operator@", f"//{login}@"))) is True


@pytest.mark.parametrize("server_binaries", SERVERS, ids=lambda folder: folder.parts[-2])
def test_databases_of_one_server_may_be_migrated_at_once(
    server_binaries: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Roles are the whole server's: here each finds them without logins at the same time."""
    monkeypatch.setattr(schema, "LOCK_TIMEOUT_MS", 60_000)  # they do wait for each other
    before = tmp_path / "before"
    shutil.copytree(schema.SUPABASE / "migrations", before / "migrations", ignore=from_logins_on)
    with supabase(server_binaries) as url:
        asyncio.run(at_once(url, before))


def from_logins_on(_: str, names: list[str]) -> list[str]:
    """What is left out for the schema before logins."""
    return [name for name in names if name >= LOGINS]


async def at_once(url: str, before: Path) -> None:
    """Three databases take the migration of logins together."""
    operator = await asyncpg.connect(url)
    urls = [f"{url.rpartition('/')[0]}/at_once_{number}" for number in range(3)]
    for each in urls:
        await operator.execute(f"create database {each.rpartition('/')[2]}")
        await schema.apply(each, before)
    done = await asyncio.gather(*(schema.apply(each) for each in urls))
    new = from_logins_on("", sorted(path.name for path in (schema.SUPABASE / "migrations").iterdir()))
    assert done == [[name.partition("_")[0] for name in new]] * len(urls)
    assert [await health(each.replace("//operator@", "//gateway_health@")) for each in urls] == [True] * len(urls)
    await operator.close()


async def health(url: str) -> Any:
    """The answer of a function that gateway_health may call, as that role."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute("set role gateway_health")
        return msgspec.json.decode(await connection.fetchval("select api.health()"))
    finally:
        await connection.close()


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """supabase/ of the newest commit that has another one than the working tree."""
    folder = tmp_path_factory.mktemp("earlier")
    if not (ROOT / ".git").exists():
        pytest.skip("there is no history here: this is no clone")
    for commit in git("log", "--format=%H").split():
        if git("diff", "--name-only", commit, "--", "supabase"):
            archive = folder / "supabase.tar"
            git("archive", "--output", str(archive), commit, "supabase")
            subprocess.run(["tar", "-xf", str(archive), "-C", str(folder)], check=True)
            return folder / "supabase"
    pytest.skip("this history has one version of supabase/ only")


def git(*command: str) -> str:
    return subprocess.run(["git", *command], cwd=ROOT, check=True, capture_output=True, text=True).stdout


class Upgraded(NamedTuple):
    """A database that an earlier version filled, and what was in it before it was upgraded."""

    operator: asyncpg.Connection
    caller: Caller
    kept: dict[str, list[Any]]
    granted: dict[tuple[str, str], Signature]


@pytest.fixture
async def upgraded(project: Project, earlier: Path) -> AsyncIterator[Upgraded]:
    await schema.apply(project.url, earlier)
    operator = await asyncpg.connect(project.url)
    database.use(Postgres(project.url))
    await operator.execute((earlier / "seed.sql").read_text() + "; reset role")
    caller = await fill(operator)
    before = await kept(operator), await granted(operator)
    await schema.apply(project.url)
    yield Upgraded(operator, caller, *before)
    await database.close()
    await operator.close()


async def fill(operator: asyncpg.Connection) -> Caller:
    """A user with a grant, a key, a request that was settled, one that is under way, and a payment that was begun."""
    await a_model(operator, "acme/one")
    caller = await a_caller(operator)
    for hold in (SETTLED, OPEN):
        await database.call("authorize", **a_request(caller, hold_id=hold))
    await database.call("settle", **a_settlement(caller, SETTLED))
    await operator.execute(
        "select api.open_payment($1, 'checkout', 1000, 10000000000, 'once', 'hash', $2)", caller.user_id, TEST
    )
    return caller


async def kept(operator: asyncpg.Connection) -> dict[str, list[Any]]:
    """Every row of the tables that an upgrade may not touch."""
    tables = {}
    for table in KEPT:
        rows = await operator.fetch(f"select to_jsonb(t)::text from gateway.{table} t order by t.created_at, t::text")  # noqa: S608
        tables[table] = [msgspec.json.decode(row[0]) for row in rows]
    return tables


async def granted(operator: asyncpg.Connection) -> dict[tuple[str, str], Signature]:
    return {
        (row["name"], row["role"]): Signature(
            frozenset(row["arguments"]), frozenset(row["arguments"][: row["required"]])
        )
        for row in await operator.fetch(GRANTED)
    }


async def test_an_upgrade_keeps_the_books(upgraded: Upgraded) -> None:
    assert all(upgraded.kept.values())
    after = await kept(upgraded.operator)
    for table, rows in upgraded.kept.items():
        # there may be further columns
        same = [{name: row[name] for name in had} for had, row in zip(rows, after[table], strict=True)]
        assert same == rows
    assert await upgraded.operator.fetch("select * from gateway.ledger_violations") == []


async def test_what_was_under_way_ends_after_the_upgrade(upgraded: Upgraded) -> None:
    balance = "select credits_nano from gateway.users where id = $1"
    before = await upgraded.operator.fetchval(balance, upgraded.caller.user_id)
    await database.call("settle", **a_settlement(upgraded.caller, OPEN, 7))
    assert await upgraded.operator.fetchval(balance, upgraded.caller.user_id) == before - 7
    held = "select sum(held_nano) from gateway.users"
    assert await upgraded.operator.fetchval(held) == 0
    await database.call("authorize", **a_request(upgraded.caller))
    assert await upgraded.operator.fetch("select * from gateway.ledger_violations") == []


async def test_functions_of_the_earlier_version_still_run(upgraded: Upgraded) -> None:
    """The database is upgraded first, so for a while its callers are the old ones."""
    now = await granted(upgraded.operator)
    taken = {grant for grant in upgraded.granted if grant not in now and grant not in GONE}
    assert taken == set()
    assert len(upgraded.granted) > len(GONE)
    changed = {
        grant: (had, now[grant])
        for grant, had in upgraded.granted.items()
        if grant in now and not now[grant].serves_calls_of(had)
    }
    assert changed == {}
