"""The commands of docs/database.md take a copy of a project, and make another project of it."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from gateway import database
from gateway.database.postgres import Postgres
from gateway.errors import GatewayError
from local import postgres, schema
from tests.database.grants import MAY_EXECUTE
from tests.harness.builders import a_caller, a_model, a_request, a_settlement, dump
from tests.harness.postgres import binaries
from tests.harness.project import supabase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.builders import Caller

pytestmark = pytest.mark.process

ROOT = schema.SUPABASE.parent
CALLERS = """
select p.proname, array_agg(r.rolname::text)
  from pg_proc p join pg_roles r on has_function_privilege(r.oid, p.oid, 'execute')
 where p.pronamespace = 'api'::regnamespace and r.rolname like 'gateway\\_%' and r.rolname <> 'gateway_owner' group by 1
"""


@pytest.fixture
def projects() -> Iterator[tuple[str, str]]:
    """Two new Supabase projects: a server each."""
    with supabase(binaries()) as one, supabase(binaries()) as other:
        yield one, other


def version(program: Path) -> str:
    """A program's major version; nothing when it is not there."""
    if not program.exists():
        return ""
    told = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    return str(re.findall(r"(\d+)(?:\.\d+)?\s*(?:\(|$)", told)[0])


def clients() -> Path:
    """The folder of pg_dump and its like for the server that is tested."""
    wanted = version(binaries() / "postgres")
    for folder in (postgres.binaries(), Path(f"/usr/lib/postgresql/{wanted}/bin")):
        if version(folder / "pg_dump") == wanted:
            return folder
    pytest.skip(f"there is no pg_dump of version {wanted} here")


async def run(commands: str, url: str, folder: Path) -> str:
    """What commands of the page say, run in a folder for a database."""
    process = await asyncio.create_subprocess_exec(
        *("bash", "-euo", "pipefail", "-c", commands.replace("make migrate", f"{sys.executable} -m local.migrate")),
        env={
            "PATH": f"{clients()}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT}/shared",
            "DATABASE_URL": url,
        },
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await process.communicate()
    assert process.returncode == 0, said.decode()
    return said.decode()


async def test_a_copy_becomes_a_project_again(projects: tuple[str, str], tmp_path: Path) -> None:
    backup, restore = re.findall(
        r"^```sh\n(.*?)^```$", (ROOT / "docs/database.md").read_text(), re.MULTILINE | re.DOTALL
    )
    one, other = projects
    await schema.apply(one)
    caller = await fill(one)
    await run(backup, one, tmp_path)
    said = await run(restore, other, tmp_path)
    assert said.rpartition("Done.")[2].strip() == ""
    first, second = await asyncpg.connect(one), await asyncpg.connect(other)
    assert await dump(second) == await dump(first)
    callers = {name: set(roles) for name, roles in await second.fetch(CALLERS)}
    assert callers == MAY_EXECUTE
    await first.close()
    await second.close()
    await still_works(other, caller)


async def fill(url: str) -> Caller:
    """A customer with a key, and a request that was settled."""
    operator = await asyncpg.connect(url)
    await operator.execute("set role gateway_owner")
    await a_model(operator, "acme/one")
    caller = await a_caller(operator)
    await operator.close()
    database.use(Postgres(url.replace("//operator@", "//gateway_chat@")))
    request = a_request(caller)
    await database.call("authorize", **request)
    await database.call("settle", **a_settlement(caller, request["hold_id"]))
    await database.close()
    return caller


async def still_works(url: str, caller: Caller) -> None:
    """The key is known, as before, and the append-only ledger is append-only."""
    database.use(Postgres(url.replace("//operator@", "//gateway_chat@")))
    request = a_request(caller)
    await database.call("authorize", **request)
    await database.call("settle", **a_settlement(caller, request["hold_id"]))
    with pytest.raises(GatewayError):
        await database.call("authorize", **a_request(caller, key_hashes=["v1:" + "0" * 64]))
    await database.close()
    operator = await asyncpg.connect(url)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="append-only"):
        await operator.execute("delete from gateway.credit_transactions")
    assert await operator.fetch("select * from gateway.ledger_violations") == []
    await operator.close()
