"""`make migrate`: what it refuses, that it changes all or nothing, and what it says."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING

import asyncpg
import pytest

from local import schema

if TYPE_CHECKING:
    from tests.harness.project import Project

pytestmark = pytest.mark.process

HISTORY = "supabase_migrations.schema_migrations"


@pytest.fixture
async def released(project: Project) -> Project:
    """A project whose two migrations and one function are in its database."""
    project.write("migrations/1_table.sql", "create table log (n int);\n\ninsert into log values (1);\n")
    project.write("migrations/3_row.sql", "insert into log values (3);")
    project.write(
        "api/apply.sql", "begin;\ndrop schema if exists api cascade;\ncreate schema api;\n\\ir one.sql\ncommit;\n"
    )
    project.write("api/one.sql", "create function api.one() returns int language sql as $$ select 1 $$;\n")
    await project.apply()
    return project


async def refused(project: Project, why: str) -> None:
    """The plan and the deed are refused for this reason, and nothing is changed."""
    before = await project.dump()
    with pytest.raises(schema.Unfit, match=why):
        await project.plan()
    with pytest.raises(schema.Unfit, match=why):
        await project.apply()
    assert await project.dump() == before


async def test_a_plan_tells_what_differs_and_changes_nothing(released: Project) -> None:
    released.write("migrations/4_more.sql", "insert into log values (4);")
    released.write("api/apply.sql", "drop schema api cascade;\ncreate schema api;\n\\ir two.sql\n\\ir three.sql\n")
    released.write("api/two.sql", "create function api.two() returns int language sql as $$ select 2 $$;")
    released.write("api/three.sql", "create function api.three() returns int language sql as $$ select 3 $$;")
    before = await released.dump()
    plan = await released.plan()
    assert await released.dump() == before
    assert (plan.done, [file.name for file in plan.migrations]) == (2, ["4_more.sql"])
    assert plan.functions == schema.Functions(["three", "two"], ["three", "two"], [], ["one"])
    await released.apply()
    released.write("api/three.sql", "create function api.three() returns int language sql as $$ select 33 $$;")
    assert (await released.plan()).functions == schema.Functions(["three", "two"], [], ["three"], [])


async def test_the_plan_sees_every_function_of_the_product(project: Project) -> None:
    project.folder = schema.SUPABASE
    first = await project.plan()
    assert first.functions.added == first.functions.all
    await project.apply()
    there = await project.fetch("select count(distinct proname) from pg_proc where pronamespace = 'api'::regnamespace")
    assert there == [(len(first.functions.all),)]
    assert await project.plan() == schema.Plan(len(first.migrations), [], first.functions._replace(added=[]))


@pytest.mark.parametrize("what", ["a migration", "a function"])
async def test_a_failure_at_the_very_end_leaves_the_database_as_it_was(released: Project, what: str) -> None:
    released.write(
        "migrations/4_more.sql", "create table more (n int); create role left_behind; drop function api.one;"
    )
    if what == "a migration":
        released.write("migrations/5_bad.sql", "insert into more values (1); select 1 / 0;")
    else:
        released.write("api/one.sql", "create function api.one() returns int language sql as $$ select nonsense $$;")
    before = await released.dump()
    with pytest.raises(asyncpg.PostgresError):
        await released.apply()
    assert await released.dump() == before
    assert await released.fetch("select from pg_roles where rolname = 'left_behind'") == []


async def test_a_busy_table_makes_it_give_up(released: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "LOCK_TIMEOUT_MS", 50)
    released.write("migrations/4_column.sql", "set lock_timeout = 0; reset all; select 1;")
    released.write("migrations/5_column.sql", "alter table log add column m int;")
    before = await released.dump()
    reader = await asyncpg.connect(released.url)
    async with reader.transaction():
        await reader.execute("select from log")
        with pytest.raises(asyncpg.LockNotAvailableError):
            await released.apply()
    await reader.close()
    assert await released.dump() == before
    assert await released.apply() == ["4", "5"]


async def test_two_at_once_apply_each_thing_once(released: Project) -> None:
    for number in range(4, 8):
        released.write(f"migrations/{number}_row.sql", f"insert into log values ({number});")  # noqa: S608
    done = await asyncio.gather(*(released.apply() for _ in range(4)))
    assert sorted(map(len, done)) == [0, 0, 0, 4]
    assert await released.fetch("select n from log order by n") == [(n,) for n in (1, 3, 4, 5, 6, 7)]


# ------------------------------------------------------------------------------------------------------------- checks


async def test_an_old_server_is_refused(released: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema, "OLDEST_POSTGRES", 99)
    await refused(released, "99 is the oldest")


async def test_the_transaction_pooler_is_refused_unasked(project: Project) -> None:
    """Nothing listens there, and it is not tried."""
    project.url = "postgresql://postgres@127.0.0.1:6543/postgres"
    for act in (project.plan, project.apply):
        with pytest.raises(schema.Unfit, match="session pooler"):
            await act()


@pytest.mark.parametrize("power", ["roles", "schemas"])
async def test_who_may_not_create_what_is_needed_is_refused(released: Project, power: str) -> None:
    role = f"weak_{power}"
    await released.execute(f"create role {role} login {'' if power == 'roles' else 'createrole'}")
    if power == "roles":
        await released.execute(
            f"do $$ begin execute format('grant create on database %I to {role}', current_database()); end $$"
        )
    await released.execute(f"grant usage on schema supabase_migrations to {role}; grant select on {HISTORY} to {role}")
    operator, released.url = released.url, released.url.replace("postgres@", f"{role}@")
    for act in (released.plan, released.apply):
        with pytest.raises(schema.Unfit, match=f"{role} may not create roles and schemas"):
            await act()
    released.url = operator
    await released.execute(f"drop owned by {role}; drop role {role}")


async def test_a_database_of_a_later_version_is_refused(released: Project) -> None:
    (released.folder / "migrations/3_row.sql").unlink()
    await refused(released, "not in this folder: 3. The database belongs to a later version")


async def test_a_released_file_that_was_changed_is_refused(released: Project) -> None:
    released.write("migrations/1_table.sql", "create table log (n bigint);\n\ninsert into log values (1);\n")
    await refused(released, "1_table.sql is not what was applied")


async def test_a_migration_that_comes_too_late_is_refused(released: Project) -> None:
    released.write("migrations/2_late.sql", "insert into log values (2);")
    await refused(released, "2_late.sql should have come before")


async def test_a_migration_with_a_transaction_of_its_own_is_refused(released: Project) -> None:
    released.write("migrations/4_own.sql", "begin;\ninsert into log values (4);\nCommit ;\n")
    await refused(released, "4_own.sql begins or ends a transaction")


@pytest.mark.parametrize("recorded", ["split", "without text"])
async def test_what_the_supabase_cli_recorded_is_known(released: Project, recorded: str) -> None:
    """It records statements, without what is between them; repaired records may have none."""
    split = (
        "array(select trim(s, E' \\n') from unnest(string_to_array(statements[1], ';')) s where trim(s, E' \\n') <> '')"
    )
    await released.execute(f"update {HISTORY} set statements = {split if recorded == 'split' else 'null'}")  # noqa: S608
    statements = await released.fetch(f"select statements from {HISTORY} where version = '1'")  # noqa: S608
    if recorded == "split":
        assert statements == [(["create table log (n int)", "insert into log values (1)"],)]
    assert await released.apply() == []


# ------------------------------------------------------------------------------------------------------------ program


async def make_migrate(**variables: str) -> tuple[int, str]:
    """The exit status of `make migrate` in this environment, and what it said."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "local.migrate"),
        env={"PATH": os.defpath, **variables},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, said.decode()


async def test_the_program_says_what_it_does(project: Project) -> None:
    before = await project.dump()
    status, said = await make_migrate(DATABASE_URL=project.url, PLAN="1")
    assert (status, await project.dump()) == (0, before)
    assert "0 applied" in said
    assert "20261101000001  schemas_and_roles" in said
    assert said.splitlines()[-1].startswith("Nothing was changed.")
    status, said = await make_migrate(DATABASE_URL=project.url)
    assert status == 0
    assert said.splitlines()[-1] == "Done."
    status, said = await make_migrate(DATABASE_URL=project.url)
    assert status == 0
    assert "none to come" in said


@pytest.mark.parametrize(
    "address",
    ["", "gateway", "postgres", "https://u:CANARY@host", "postgresql://u:12CANARY/3@host/db", "u:CANARY@host/db"],
)
async def test_an_address_that_is_none_is_refused_and_not_shown(address: str) -> None:
    status, said = await make_migrate(DATABASE_URL=address)
    assert status == 2
    assert said.startswith("Set DATABASE_URL to")
    assert "CANARY" not in said


async def test_a_database_that_is_away_is_no_traceback(unused_tcp_port: int) -> None:
    status, said = await make_migrate(DATABASE_URL=f"postgresql://u:CANARY@127.0.0.1:{unused_tcp_port}/db")
    assert status == 1
    assert "There is no connection" in said
    assert "CANARY" not in said
    assert "Traceback" not in said


async def test_a_refusal_is_said_and_told_by_the_status(released: Project) -> None:
    """The database has the migrations of another folder."""
    before = await released.dump()
    status, said = await make_migrate(DATABASE_URL=released.url)
    assert (status, await released.dump()) == (1, before)
    assert "not in this folder: 1, 3" in said
    assert said.splitlines()[-1] == "Nothing was changed."
