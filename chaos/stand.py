"""What is put under strain: a Postgres, the fake upstream, the gateway as a container and its jobs, all on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import asyncpg

from bench import product
from bench.processes import ROOT, NotStarted, Service, free_port, inherited, tree
from chaos.traffic import Traffic
from local import postgres
from local.schema import FUNCTIONS_LOGIN

if TYPE_CHECKING:
    from contextlib import ExitStack

USERS = 8
READY_S = 60.0
DRAIN_S = 120.0
"""How long a gateway may go on with what it has begun, once it is asked to end."""
DISK_MB = 320
"""Room of the database's disk, of which some 150 MB are taken at the start."""
CHARGED = "select reference from gateway.credit_transactions where kind = 'usage'"
OPEN = "select count(*) from gateway.credit_holds where state = 'held'"


class Books(NamedTuple):
    """What the database says of all completions."""

    violations: int = 0
    """Rules of the ledger that are broken."""
    charges: int = 0
    twice: int = 0
    """Charges of a hold that had been charged before."""
    unpaid: int = 0
    """Answers without a charge: their process was killed between the last byte and the settlement."""
    open: int = 0
    """Holds of processes that were killed, which end when they expire."""


class Stand:
    """One run's processes; the stack stops them and removes what they wrote."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.stack, self.folder = stack, folder
        self.port, self.upstream = free_port(), free_port()
        self.keys: list[str] = []
        self.has_small_disk = False
        self.resolver: str | None = None
        """The address of a name server that the gateway has to ask; None: the machine's own."""

    async def start(self, *, jobs: bool = True) -> None:
        """Start everything, and return when a completion is answered. Raises NotStarted."""
        self.folder.chmod(0o755)  # Postgres may run as somebody else
        self._start_postgres()
        self.settings = product.settings(self.server.url(user=FUNCTIONS_LOGIN), self.upstream) | {
            "SEALING_KEYS": "Y2hhb3MtYW5kLXNvYWstb25seS0wMDAwMDAwMDAwMDE=",
            "OPENROUTER_BASE_URL": f"http://localhost:{self.upstream}/v1",  # a name: it is looked up like any other
            "PORT": str(self.port),
        }
        self.keys = await self._people()
        self.service("upstream", ["bench.upstream", str(self.upstream)])
        self.start_gateway()
        if jobs:
            self.jobs = self.service("jobs", ["container.jobs"])
        self.traffic = Traffic(f"http://127.0.0.1:{self.port}", self.keys)
        await self.healthy()

    def service(self, name: str, module: list[str], prefix: tuple[str, ...] = ()) -> Service:
        command = [*prefix, sys.executable, "-m", *module]
        service = Service(name, command, self.settings, self.folder / f"{name}.log")
        self.stack.callback(service.stop)
        return service

    def start_gateway(self) -> None:
        """Start it anew on its port; where the name server is ours, in a mount namespace that names it."""
        self.gateway = self.service("gateway", ["container"], self._namespace())

    async def ask_names_of(self, resolver: str | None) -> None:
        """Have the gateway ask another name server, for which it is started anew. Raises NotStarted."""
        if resolver != self.resolver:
            self.resolver = resolver
            self.gateway.process.terminate()
            try:
                await asyncio.to_thread(self.gateway.process.wait, DRAIN_S)
            except subprocess.TimeoutExpired as error:
                raise NotStarted(f"the gateway did not end within {DRAIN_S} s") from error
            self.start_gateway()
            await self.healthy()

    async def healthy(self) -> float:
        """The seconds until a completion is answered. Raises NotStarted."""
        clock = asyncio.get_running_loop().time
        began = clock()
        while not await self.traffic.is_served():
            self.gateway.check()
            if clock() - began > READY_S:
                raise NotStarted(f"nothing was answered within {READY_S} s. {self.gateway.last_words()}")
            await asyncio.sleep(0.1)
        return clock() - began

    def stop_postgres(self) -> None:
        """End the server at once, without a checkpoint: what is committed is in its log alone."""
        os.kill(int((self.folder / "disk" / "data" / "postmaster.pid").read_text().split()[0]), signal.SIGQUIT)
        self.server.stop()

    async def query(self, text: str) -> list[dict[str, Any]]:
        """Ask the database as its owner."""
        connection = await asyncpg.connect(self.server.url())
        try:
            return [dict(row) for row in await connection.fetch(text)]
        finally:
            await connection.close()

    async def books(self) -> Books:
        """How things are now."""
        charged = [row["reference"] for row in await self.query(CHARGED)]
        (waiting,) = await self.query(OPEN)
        broken = await self.query("select * from gateway.ledger_violations")
        unpaid = self.traffic.answered - set(charged)
        return Books(len(broken), len(charged), len(charged) - len(set(charged)), len(unpaid), waiting["count"])

    def _start_postgres(self) -> None:
        disk = self.folder / "disk"
        disk.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m,mode=755", "gatewayz-chaos", str(disk)]
        if os.geteuid() == 0 and shutil.which("mount"):
            self.has_small_disk = subprocess.run(mount, check=False, capture_output=True).returncode == 0
        if self.has_small_disk:
            self.stack.callback(subprocess.run, ["umount", "-l", str(disk)], check=False)
        self.server = postgres.Server(postgres.binaries(), disk / "data")
        self.stack.callback(self.server.stop)
        self.server.start()

    async def _people(self) -> list[str]:
        owner = self.settings | {"DATABASE_URL": self.server.url()}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "chaos.people", str(USERS),
            cwd=ROOT, env=inherited(owner), stdout=asyncio.subprocess.PIPE,
        )  # fmt: skip
        output, _ = await process.communicate()
        if process.returncode:
            raise NotStarted("the database could not be filled")
        keys: list[str] = json.loads(output)
        return keys

    def _namespace(self) -> tuple[str, ...]:
        if not self.resolver:
            return ()
        file = self.folder / "resolv.conf"
        file.write_text(f"nameserver {self.resolver}\noptions timeout:5 attempts:2\n")
        script = f'mount --bind "{file}" /etc/resolv.conf && exec "$@"'
        return ("unshare", "--mount", "sh", "-c", script, "sh")


def descriptors(root: int) -> int:
    """Open files and sockets of a process and its descendants."""
    found = 0
    for pid in tree(root):
        with contextlib.suppress(OSError):  # it may have ended by now
            found += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    return found
