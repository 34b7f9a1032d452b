"""Who may do what: the tables are nobody's, each function is named roles', and no secret is stored."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import asyncpg
import msgspec
import pytest

from gateway import database as door
from gateway import errors
from gateway.database.postgres import Postgres
from tests.database.grants import MAY_EXECUTE
from tests.harness.builders import Caller, a_caller, a_settlement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.harness.builders import Connection
    from tests.harness.postgres import Database

STRANGERS = {"anon", "authenticated", "authenticator"}
ROLES = STRANGERS | {
    "service_role",
    "gateway",
    "gateway_auth",
    "gateway_chat",
    "gateway_catalog",
    "gateway_account",
    "gateway_health",
    "gateway_jobs",
    "gateway_admin",
    "gateway_billing",
    "gateway_stripe_webhook",
    "gateway_trials",
    "gateway_history",
}
"""Every role but the tables' owner; `gateway` is how the functions log in here."""

SERVICE = {"service_role", "gateway"}

LOGINS = {role.removeprefix("gateway_") for role in ROLES if role.startswith("gateway_")}

OPEN = "00000000-0000-0000-0000-00000000000a"
STATUS = {"user_id": 1, "status": "suspended", "reason": "", "actor": {"name": "nobody"}}

FUNCTIONS = """
select p.proname as name, p.prosecdef as is_definer, coalesce(p.proconfig, '{}') as settings, p.prosrc as source,
       pg_get_userbyid(p.proowner) as owner,
       array(select r::text from unnest($1::text[]) r where has_function_privilege(r, p.oid, 'execute')) as callers,
       exists (select from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0)
         as is_public
  from pg_proc p where p.pronamespace = $2::regnamespace order by 1
"""
RELATIONS = """
select c.oid::regclass::text as name, c.relkind::text as kind, c.relrowsecurity as has_rls,
       pg_get_userbyid(c.relowner) as owner, coalesce(c.reloptions, '{}') as options,
       array(select r::text from unnest($1::text[]) r, unnest($2::text[]) p where has_table_privilege(r, c.oid, p))
         as readers
  from pg_class c where c.relnamespace = 'gateway'::regnamespace and c.relkind in ('r', 'p', 'v', 'm', 'f') order by 1
"""
TABLE_PRIVILEGES = ["select", "insert", "update", "delete", "truncate", "references", "trigger"]


@pytest.fixture
async def functions(database: Database) -> AsyncIterator[Connection]:
    """A connection as the functions log in."""
    connection = await asyncpg.connect(database.service)
    yield connection
    await connection.close()


async def test_every_table_has_row_level_security_and_no_policy(operator: Connection) -> None:
    relations = await operator.fetch(RELATIONS, list(ROLES), TABLE_PRIVILEGES)
    tables = [row for row in relations if row["kind"] in {"r", "p"}]
    assert len(tables) > 14 + 24
    assert [row["name"] for row in tables if not row["has_rls"]] == []
    assert {row["kind"] for row in relations} == {"r", "p", "v"}
    views = [row for row in relations if row["kind"] == "v"]
    assert [row["name"] for row in views if "security_invoker=true" not in row["options"]] == []
    assert await operator.fetch("select * from pg_policies where schemaname in ('gateway', 'api')") == []


async def test_no_role_but_the_owner_reaches_a_table_or_its_schema(operator: Connection) -> None:
    relations = await operator.fetch(RELATIONS, list(ROLES), TABLE_PRIVILEGES)
    assert [(row["name"], row["readers"]) for row in relations if row["readers"]] == []
    columns = await operator.fetch(
        "select c.oid::regclass, a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid"
        " where c.relnamespace = 'gateway'::regnamespace and a.attacl is not null"
    )
    assert columns == []
    for privilege in ("usage", "create"):
        for role in ROLES:
            reached = await operator.fetchval("select has_schema_privilege($1, 'gateway', $2)", role, privilege)
            assert not reached, (role, privilege)
    makers = [
        role for role in ROLES if await operator.fetchval("select has_schema_privilege($1, 'api', 'create')", role)
    ]
    assert makers == []


async def test_the_service_cannot_read_a_table(operator: Connection, functions: Connection) -> None:
    tables = await operator.fetch(RELATIONS, [], [])
    for name, *_ in tables:
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await functions.fetch(f"table {name}")
    for statement in ("set role gateway_owner", "select gateway.refuse_change()", "create table api.mine ()"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await functions.execute(statement)


@pytest.mark.parametrize("group", sorted(LOGINS))
async def test_who_logs_in_as_a_function_does_what_it_may_and_nothing_else(database: Database, group: str) -> None:
    settlement = "settle", a_settlement(Caller(1, 1, "", ""), OPEN)
    foreign, arguments = ("set_user_status", STATUS) if group in {"chat", "jobs"} else settlement
    door.use(Postgres(database.login(group)))
    with pytest.raises(errors.InternalError) as refused:
        await door.call(foreign, **arguments)
    await door.close()
    assert isinstance(refused.value.__cause__, door.Failure)
    assert refused.value.__cause__.code == "42501"
    connection = await asyncpg.connect(database.login(group))
    assert await connection.fetchval("show statement_timeout") == "9s"
    assert await connection.fetchval("show idle_in_transaction_session_timeout") == "10s"
    for statement in ("table gateway.users", "set role gateway_owner", "set role service_role", "create table mine ()"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
    await connection.close()


async def test_each_function_is_its_named_roles_alone(operator: Connection) -> None:
    found = {row["name"]: set(row["callers"]) for row in await operator.fetch(FUNCTIONS, list(ROLES), "api")}
    assert {name: callers for name, callers in found.items() if callers} == {
        name: callers | SERVICE for name, callers in MAY_EXECUTE.items()
    }
    inner = await operator.fetch(FUNCTIONS, list(ROLES), "gateway")
    assert [(row["name"], row["callers"]) for row in inner if row["callers"]] == []


@pytest.mark.parametrize("schema", ["api", "gateway"])
async def test_functions_run_as_their_owner_and_cannot_be_misled(operator: Connection, schema: str) -> None:
    rows = await operator.fetch(FUNCTIONS, list(ROLES), schema)
    assert rows
    assert {row["owner"] for row in rows} == {"gateway_owner"}
    assert [row["name"] for row in rows if row["is_public"]] == []
    outer = [row for row in rows if row["name"] in MAY_EXECUTE or schema == "gateway"]
    # where filters may be left out, the plan has to be made for those that are there
    planned = ['search_path=""', "plan_cache_mode=force_custom_plan"]
    assert [row["name"] for row in outer if row["settings"] not in (planned[:1], planned)] == []
    assert [row["name"] for row in rows if row["name"] in MAY_EXECUTE and not row["is_definer"]] == []
    # a part of one of these runs as its caller does: as the owner, with the same search_path
    assert [row["name"] for row in rows if row["name"] not in MAY_EXECUTE and row["callers"]] == []


async def test_no_function_makes_sql(operator: Connection) -> None:
    dynamic = await operator.fetch(
        "select proname from pg_proc where pronamespace = 'api'::regnamespace"
        r" and (prosrc ~* '\mexecute\M' or prosrc ~* '\mformat\s*\(')"
    )
    assert dynamic == []


async def test_every_function_returns_json_to_its_callers(operator: Connection) -> None:
    """`database.call` decodes one value; named arguments need names, and one function to a name."""
    rows = await operator.fetch(
        "select proname, prorettype::regtype::text, proargnames, pronargs, proretset from pg_proc"
        " where pronamespace = 'api'::regnamespace and proname = any ($1)",
        list(MAY_EXECUTE),
    )
    assert sorted(row[0] for row in rows) == sorted(MAY_EXECUTE)
    assert {(row[1], row[4]) for row in rows} == {("jsonb", False)}
    assert [row[0] for row in rows if row[3] != len(row[2] or [])] == []


async def test_the_owner_is_no_superuser_and_nobody_logs_in_as_it(operator: Connection) -> None:
    owner = await operator.fetchrow("select * from pg_roles where rolname = 'gateway_owner'")
    assert owner is not None
    powers = ("rolsuper", "rolcreaterole", "rolcreatedb", "rolcanlogin", "rolbypassrls", "rolreplication")
    assert [name for name in powers if owner[name]] == []
    schemas = await operator.fetch(
        "select nspname, pg_get_userbyid(nspowner) from pg_namespace where nspname in ('gateway', 'api')"
    )
    assert {tuple(row) for row in schemas} == {("gateway", "gateway_owner"), ("api", "gateway_owner")}
    relations = await operator.fetch(RELATIONS, list(ROLES), TABLE_PRIVILEGES)
    assert {row["owner"] for row in relations} == {"gateway_owner"}
    members = await operator.fetch(
        "select r.rolname from pg_roles r where pg_has_role(r.rolname, 'gateway_owner', 'member') and not r.rolsuper"
    )
    assert [row[0] for row in members] == ["gateway_owner"]


KEPT = {
    "credit_transactions": [
        "delete from {}", "delete from {} where false", "truncate {} cascade", "truncate gateway.users cascade",
        "update {} set created_at = now()",
    ],
    "audit_logs": ["update {} set created_at = now()", "delete from {}", "truncate {}", "truncate only {}"],
    "audit_chain": ["update {} set place = 9", "delete from {}", "truncate {}"],
}  # fmt: skip


@pytest.mark.parametrize("table", KEPT)
@pytest.mark.usefixtures("service")
async def test_what_is_written_stays_even_for_the_operator(operator: Connection, table: str) -> None:
    await a_caller(operator)
    everything = f"table gateway.{table}"
    rows = await operator.fetch(everything)
    assert rows
    for statement in KEPT[table]:
        for role in ("postgres", "gateway_owner"):
            await operator.execute(f"set role {role}")
            with pytest.raises(
                asyncpg.InsufficientPrivilegeError, match=r"is append-only|is kept for 90 days at least"
            ):
                await operator.execute(statement.format(f"gateway.{table}"))
            await operator.execute("reset role")
    assert await operator.fetch(everything) == rows


SEED = """
import asyncio, sys
from local.seed import seed
seeded = asyncio.run(seed(sys.argv[1]))
print(seeded.customer_key, seeded.admin_key)
"""
PEPPER = "a pepper that must stay out"


async def test_no_key_and_no_pepper_is_in_the_database(database: Database) -> None:
    environment = os.environ | {
        "STAGE": "dev",
        "DATABASE_URL": database.admin,
        "KEY_PEPPERS": f"v1:{PEPPER}",
        "PYTHONPATH": ".:shared",
    }
    command = [sys.executable, "-c", SEED, database.admin]
    process = subprocess.run(  # noqa: ASYNC221
        command, env=environment, check=True, capture_output=True, text=True, cwd=os.curdir
    )
    keys = process.stdout.split()
    stored = await _everything(database)
    assert len(keys) == 2
    for key in keys:
        prefix, public_id, secret = key[:7], key[7:19], key[19:51]
        assert prefix == "gw_dev_"
        assert public_id in stored
        assert secret not in stored
    assert PEPPER not in stored


async def _everything(database: Database) -> str:
    """Every row of every table of every schema but Postgres's own, as text."""
    connection = await asyncpg.connect(database.admin)
    try:
        tables = await connection.fetch(
            "select oid::regclass::text from pg_class where relkind = 'r'"
            " and relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)"
        )
        parts = [await connection.fetch(f"select t::text from {name} t") for (name,) in tables]  # noqa: S608
        return "\n".join(row[0] for rows in parts for row in rows)
    finally:
        await connection.close()


@pytest.mark.usefixtures("service")
async def test_a_broken_ledger_is_seen(operator: Connection) -> None:
    """Each rule of ledger_violations, broken on purpose; the fixture asserts that none is broken after other tests."""
    caller = await a_caller(operator)
    hold, settled = "00000000-0000-0000-0000-00000000000a", "00000000-0000-0000-0000-00000000000b"
    settlement = a_settlement(caller, settled)
    await operator.execute(
        "select api.settle($1, $2, $3, $4, null)",
        settled, caller.user_id, caller.key_id, msgspec.json.encode(settlement["usage"]).decode(),
    )  # fmt: skip
    await operator.execute(
        "insert into gateway.credit_holds (id, user_id, key_id, bound_nano, expires_at) values ($1, $2, $3, 0, now())",
        hold, caller.user_id, caller.key_id,
    )  # fmt: skip
    for statement, rule in {
        "update gateway.users set credits_nano = credits_nano + 1": "balance is not the sum of its transactions",
        "update gateway.users set held_nano = 1": "held amount is not the sum of open holds",
        "update gateway.credit_holds set cost_nano = 1 where state = 'settled'": "settled hold and usage transaction"
        " disagree",
        "delete from gateway.usage_records": "settled hold and usage record disagree",
        "update gateway.credit_holds set expires_at = now() - interval '11 minutes'": "hold outlived its expiry and"
        " the sweep",
    }.items():
        transaction = operator.transaction()
        await transaction.start()
        await operator.execute(statement)
        broken = {row["rule"] for row in await operator.fetch("select rule from gateway.ledger_violations")}
        await transaction.rollback()
        assert rule in broken
