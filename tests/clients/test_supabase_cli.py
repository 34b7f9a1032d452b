"""Supabase's own CLI on our migrations: it may do the tables in the place of `make migrate`, in either order."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from local import postgres, schema

if TYPE_CHECKING:
    from tests.harness.project import Project

CLI = Path(__file__).parent / "outside/node_modules/@supabase/cli-linux-x64/bin/supabase"

pytestmark = [
    pytest.mark.clients,
    pytest.mark.skipif(not CLI.exists(), reason="the CLI's package is locked for Linux on x64"),
]


async def db_push(project: Project, home: Path, *, dry: bool = False) -> str:
    """What `supabase db push` says, on a copy of supabase/, because it writes there."""
    shutil.copytree(schema.SUPABASE, home / "supabase", dirs_exist_ok=True)
    process = await asyncio.create_subprocess_exec(
        *(str(CLI), "db", "push", "--remote", project.url, "--workdir", str(home), "--yes", "--agent", "no"),
        *(["--dry-run"] if dry else []),
        env={"PATH": os.environ["PATH"], "HOME": str(home), "SUPABASE_TELEMETRY_DISABLED": "1"},
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def test_after_db_push_only_the_functions_are_to_come(project: Project, tmp_path: Path) -> None:
    said = await db_push(project, tmp_path / "home")
    assert "Finished supabase db push." in said
    project.folder = schema.SUPABASE
    plan = await project.plan()
    assert plan.migrations == []
    assert plan.functions.added == plan.functions.all
    pushed = await project.dump()
    assert await project.apply() == []
    assert await project.fetch("select api.health()") == [("true",)]
    assert set(pushed) <= set(await project.dump())


async def test_after_db_push_psql_brings_the_functions(project: Project, tmp_path: Path) -> None:
    await db_push(project, tmp_path / "home")
    command = [str(postgres.binaries() / "psql"), "-q", "-v", "ON_ERROR_STOP=1", project.url, "-f"]
    process = await asyncio.create_subprocess_exec(*command, str(schema.SUPABASE / "api" / "apply.sql"))
    assert await process.wait() == 0
    assert await project.fetch("select api.health()") == [("true",)]


async def test_after_make_migrate_db_push_has_nothing_to_do(project: Project, tmp_path: Path) -> None:
    project.folder = schema.SUPABASE
    await project.apply()
    before = await project.dump()
    assert "Remote database is up to date." in await db_push(project, tmp_path / "home")
    assert await project.dump() == before


async def test_what_one_left_the_other_goes_on_with(project: Project, tmp_path: Path) -> None:
    """Half of the migrations by us, the rest by the CLI."""
    files = sorted((schema.SUPABASE / "migrations").glob("*.sql"))
    for file in files[: len(files) // 2]:
        project.write(f"migrations/{file.name}", file.read_text())
    await project.apply()
    said = await db_push(project, tmp_path / "home", dry=True)
    assert files[0].name not in said
    assert files[-1].name in said
    await db_push(project, tmp_path / "home")
    project.folder = schema.SUPABASE
    assert (await project.plan()).migrations == []
