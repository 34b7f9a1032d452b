"""Migrations once, functions anew, on SQL of the tests' own."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import pytest

from local import postgres, schema

if TYPE_CHECKING:
    from tests.harness.project import Project


async def test_each_migration_runs_once_in_order_and_is_recorded_as_supabase_does(project: Project) -> None:
    project.write("migrations/20260101000002_second.sql", "insert into log values (2);")
    project.write("migrations/20260101000001_first_table.sql", "create table log (n int); insert into log values (1);")
    assert await project.apply() == ["20260101000001", "20260101000002"]
    project.write("migrations/20260101000003_third.sql", "insert into log values (3);")
    assert await project.apply() == ["20260101000003"]
    assert await project.apply() == []
    assert await project.fetch("select n from log") == [(1,), (2,), (3,)]
    records = "select version, name, statements from supabase_migrations.schema_migrations order by version"
    assert (await project.fetch(records))[1] == ("20260101000002", "second", ["insert into log values (2);"])


async def test_a_failing_migration_leaves_nothing_and_says_where(project: Project) -> None:
    project.write("migrations/1_good.sql", "create table good (n int);")
    project.write("migrations/2_bad.sql", "create table bad (n int);\nselect 1;\nselect nonsense from good;\nselect 2;")
    before = await project.dump()
    with pytest.raises(asyncpg.UndefinedColumnError) as caught:
        await project.apply()
    assert caught.value.__notes__ == ["in 2_bad.sql, at: select nonsense from good;"]
    assert await project.dump() == before


async def test_a_script_leaves_no_setting_and_no_role_behind(project: Project) -> None:
    project.write("migrations/1_role.sql", "set role pg_monitor; set timezone = 'Asia/Tokyo';")
    project.write(
        "migrations/2_table.sql",
        "create table log as select current_user::text u, current_setting('timezone') z;",
    )
    await project.apply()
    assert await project.fetch("select u, z = 'Asia/Tokyo' from log") == [("postgres", False)]


async def test_functions_are_replaced_whole_or_not_at_all(project: Project) -> None:
    entry = "\\set ON_ERROR_STOP on\nbegin;\ndrop schema if exists api cascade;\ncreate schema api;\n"
    project.write("api/apply.sql", entry + "\\ir one.sql\n\\i 'two.sql'\ncommit;\n")
    project.write("api/one.sql", "create function api.one() returns int language sql as 'select 1';")
    project.write("api/two.sql", "create function api.two() returns int language sql as 'select api.one() + 1';")
    await project.apply()
    assert await project.fetch("select api.two()") == [(2,)]
    project.write("api/one.sql", "create function api.one() returns int language sql as 'select 10';")
    await project.apply()
    assert await project.fetch("select api.two()") == [(11,)]
    project.write("api/two.sql", "create function api.two() returns int language sql as 'select 1 +';")
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await project.apply()
    assert await project.fetch("select api.two()") == [(11,)]


async def test_two_deploys_at_once_take_turns(project: Project) -> None:
    project.write("migrations/1_table.sql", "create table log (n int);")
    project.write("api/apply.sql", "begin;\ndrop schema if exists api cascade; create schema api;\ncommit;\n")
    assert sorted(await asyncio.gather(*(project.apply() for _ in range(4)))) == [[], [], [], ["1"]]


async def test_the_product_is_the_same_by_psql(project: Project) -> None:
    """`psql -f supabase/api/apply.sql` is the other way to apply it."""
    functions = "select oid::regprocedure::text from pg_proc where pronamespace = to_regnamespace('api') order by 1"
    await schema.apply(project.url)
    ours = await project.fetch(functions)
    command = [str(postgres.binaries() / "psql"), "-q", "-v", "ON_ERROR_STOP=1", project.url, "-f"]
    process = await asyncio.create_subprocess_exec(*command, str(schema.SUPABASE / "api" / "apply.sql"))
    assert await process.wait() == 0
    assert await project.fetch(functions) == ours
