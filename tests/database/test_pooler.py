"""Through a real pgbouncer in transaction mode, whose server connection may be another one for each call."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import asyncpg
import pytest

from gateway import database as door
from gateway.database.postgres import Postgres
from local.schema import FUNCTIONS_LOGIN
from tests.harness.builders import BOUND, a_caller, a_request, a_settlement, purse
from tests.harness.gateway import eventually
from tests.harness.rie import free_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.harness.builders import Connection
    from tests.harness.postgres import Database

pytestmark = pytest.mark.pooler

SETTINGS = """
[databases]
* = host=127.0.0.1 port={server} user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 3
max_client_conn = 200
"""
"""Fewer connections to the server than there are clients, so that they change."""
AS_NOBODY = ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--"]
"""pgbouncer refuses to run as root."""


@asynccontextmanager
async def pooled(url: str, folder: Path) -> AsyncIterator[str]:
    """The address of a database through a pgbouncer of its own."""
    program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
    assert program, "`make versions` needs pgbouncer: apt install pgbouncer, or brew install pgbouncer"
    (port,), server = free_ports(1), urlsplit(url).port
    (folder / "pgbouncer.ini").write_text(SETTINGS.format(server=server, port=port, user=FUNCTIONS_LOGIN))
    prefix = AS_NOBODY if os.geteuid() == 0 else []
    command = [*prefix, program, "-q", str(folder / "pgbouncer.ini")]
    address = url.replace(f":{server}/", f":{port}/")
    with (folder / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(*command, stdout=log, stderr=subprocess.STDOUT)

    async def answers() -> bool:
        assert process.returncode is None, (folder / "log").read_text()
        try:
            await (await asyncpg.connect(address, statement_cache_size=0)).close()
        except (OSError, asyncpg.PostgresError):
            return False
        return True

    try:
        await eventually(answers)
        yield address
    finally:
        process.terminate()
        await process.wait()


@pytest.mark.parametrize("pooler", [None, "transaction"], ids=["unknown", "named"])
async def test_a_transaction_pooler_loses_and_doubles_nothing(
    operator: Connection,
    database: Database,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    pooler: Literal["transaction"] | None,
) -> None:
    callers = [await a_caller(operator) for _ in range(8)]

    async def completions(number: int) -> None:
        for _ in range(10):
            request = a_request(callers[number])
            assert (await door.call("authorize", **request))["user_id"] == callers[number].user_id
            settled = await door.call("settle", **a_settlement(callers[number], request["hold_id"], 1000))
            assert settled["state"] == "settled"

    async with pooled(database.service, tmp_path) as url:
        door.use(Postgres(url, pooler))
        await asyncio.gather(*(completions(number) for number in range(len(callers))))
        await door.close()
    left = (100 * BOUND - 10 * 1000, 0)
    assert [await purse(operator, caller.user_id) for caller in callers] == [left] * len(callers)
    assert ("database_pooler_found" in capsys.readouterr().out) is (pooler is None)
