"""One run: what is started in which order, measured in turn, and put into lines."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import asyncpg

from bench import floor, product, report, startup
from bench.measure import OPEN_STREAMS, Round, Target, memory_with_streams, one_round, ready
from bench.processes import ROOT, NotStarted, Service, free_port, memory_mb
from bench.report import DIRECT, FLOOR, PRODUCT, Limit, Line
from bench.runtime import on_lambda
from local import postgres

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import ExitStack
    from pathlib import Path


def say(text: str) -> None:
    """What is being done, beside the figures."""
    print(text, file=sys.stderr, flush=True)


@dataclass(frozen=True, slots=True)
class App:
    """A gateway as a program: its ASGI app, a key that it accepts, and the environment it is started with."""

    name: str
    asgi: str
    key: str
    settings: Mapping[str, str]


class Run:
    """The processes of one run, and what was found."""

    def __init__(self, stack: ExitStack, folder: Path, gateway_cpus: set[int] | None) -> None:
        self.stack, self.folder, self.gateway_cpus = stack, folder, gateway_cpus
        self.apps: list[App] = []
        self.targets: list[Target] = []
        self.rounds: list[Round] = []
        self.lines: list[Line] = []
        self.notes: list[str] = []
        self.first_answer = Line("process start to first answer, ms", digits=0)

    async def everything(self, rounds: int) -> None:
        """Start all and measure all; the caller's stack stops what was started. Raises NotStarted."""
        server, upstream = self.start_postgres(), free_port()
        self.start(DIRECT, ["bench.upstream", str(upstream)], {})
        await self.add(Target(DIRECT, upstream, "none"))
        await self.start_gateway(await self.floor(server, upstream))
        try:
            await self.start_gateway(await self.product(server, upstream))
        except NotStarted as error:
            self.notes.append(f"{PRODUCT} is left out: {error}")
        idle = self.memory("memory when idle, MB")
        await self.measure(rounds)
        self.lines += [*report.lines(self.rounds), idle, self.memory("memory after the loads, MB")]
        self.lines += [await self.open_streams(), self.first_answer]
        self.lines += await self.runtimes()
        for app in self.apps[1:]:
            self.lines += startup.imported(app.settings)

    def start(
        self,
        name: str,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        cpus: set[int] | None = None,
    ) -> Service:
        """A Python program, stopped at the end of the run."""
        log = self.folder / f"{name}.log"
        service = Service(name, [sys.executable, "-m", *arguments], environment, log, cpus)
        self.stack.callback(service.stop)
        return service

    async def add(self, target: Target) -> None:
        await ready(target)
        self.targets.append(target)

    def start_postgres(self) -> postgres.Server:
        self.folder.chmod(0o755)  # Postgres may have to run as somebody else
        server = postgres.Server(postgres.binaries(), self.folder / "postgres")
        self.stack.callback(server.stop)
        server.start()
        return server

    async def create_database(self, server: postgres.Server, name: str) -> str:
        connection = await asyncpg.connect(server.url())
        try:
            await connection.execute(f"create database {name}")
        finally:
            await connection.close()
        return server.url(name)

    async def floor(self, server: postgres.Server, upstream: int) -> App:
        database = await self.create_database(server, FLOOR)
        settings = {
            "PYTHONPATH": str(ROOT / "shared"),  # for the Lambda runtime, which runs it too
            "DATABASE_URL": database,
            "UPSTREAM_URL": f"http://127.0.0.1:{upstream}/v1",
        }
        return App(FLOOR, "bench.floor:app", floor.KEY, settings)

    async def product(self, server: postgres.Server, upstream: int) -> App:
        database = await self.create_database(server, PRODUCT)
        key = await product.prepared(product.settings(database, upstream))
        return App(PRODUCT, product.APP, key, product.settings(server.url(PRODUCT, "gateway"), upstream))

    async def start_gateway(self, app: App) -> None:
        """The app under uvicorn, on a port of its own."""
        port, began = free_port(), time.perf_counter()
        where = ["--host", "127.0.0.1", "--port", str(port)]
        arguments = ["uvicorn", app.asgi, *where, "--no-access-log", "--log-level", "warning"]
        service = self.start(app.name, arguments, app.settings, self.gateway_cpus)
        await self.add(Target(app.name, port, app.key, service))
        self.first_answer.values[app.name] = (time.perf_counter() - began) * 1e3
        self.apps.append(app)
        say(f"{app.name} answers")

    async def measure(self, rounds: int) -> None:
        database = int((self.folder / "postgres" / "postmaster.pid").read_text().split()[0])
        for number in range(1, rounds + 1):
            self.rounds.append(await one_round(self.targets, database, reverse=number % 2 == 0))
            say(f"round {number} of {rounds} is done")
        self.notes += report.errors(self.rounds)

    def memory(self, label: str) -> Line:
        found = {one.name: memory_mb(one.process.pid) for one in self.targets if one.process}
        return Line(label, found, digits=1)

    async def open_streams(self) -> Line:
        found = {one.name: await memory_with_streams(one) for one in self.targets if one.process}
        return Line(f"memory with {OPEN_STREAMS} streams open, MB", found, digits=1)

    async def runtimes(self) -> list[Line]:
        """The apps on the Lambda runtime."""
        start = Line("Lambda runtime: process start to first /next, ms", digits=0)
        memory = Line(f"Lambda runtime: memory with {OPEN_STREAMS} streams, MB", limit=Limit(80), digits=1)
        for app in self.apps:
            try:
                start.values[app.name], memory.values[app.name] = await on_lambda(app.asgi, app.key, app.settings)
            except NotStarted as error:
                self.notes.append(str(error))
        return [start, memory]
