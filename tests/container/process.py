"""`python -m container` as an operator has it: a process, its address, its log and its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from tests.harness.gateway import Gateway, books_of, eventually, seeded, with_password

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.harness.postgres import Database

ROOT = Path(__file__).parents[2]
DEADLINE_S = 60
PYTHONPATH = "shared:functions"


class Process:
    """A program of the container, whose log is read as it comes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.log: list[dict[str, Any]] = []
        self.errors = ""
        self._process = process
        self._reading = [asyncio.create_task(self._read()), asyncio.create_task(self._read_errors())]

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    def events(self, name: str) -> list[dict[str, Any]]:
        """The lines of its log with this event."""
        return [line for line in self.log if line["event"] == name]

    async def logged(self, name: str) -> dict[str, Any]:
        """The first line with this event, once it is there."""

        async def found() -> list[dict[str, Any]]:
            assert self.running or self.events(name), self.errors
            return self.events(name)

        async with asyncio.timeout(DEADLINE_S):
            return (await eventually(found))[0]

    async def ended(self) -> int:
        """How it ended: its exit code, or the signal's number, negative."""
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.gather(*self._reading)
            return await self._process.wait()

    async def kill(self) -> None:
        if self.running:
            self._process.kill()
        await self.ended()

    async def _read(self) -> None:
        assert self._process.stdout is not None
        async for line in self._process.stdout:
            self.log.append(json.loads(line))

    async def _read_errors(self) -> None:
        assert self._process.stderr is not None
        self.errors = (await self._process.stderr.read()).decode()


@asynccontextmanager
async def started(*command: str, **environment: str) -> AsyncIterator[Process]:
    """A program with these settings; killed at the end of the block if it has not ended by itself."""
    secrets = {name: os.environ[name] for name in ("KEY_PEPPERS", "SEALING_KEYS")}
    own = {"STAGE": "dev", "PATH": os.environ["PATH"], "PYTHONPATH": PYTHONPATH, "PORT": "0"}
    running = await asyncio.create_subprocess_exec(
        *(command or (sys.executable, "-m", "container")),
        cwd=ROOT,
        env=own | secrets | environment,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    process = Process(running)
    try:
        yield process
    finally:
        await process.kill()


class InContainer(Gateway):
    """A gateway in a process of its own."""

    def __init__(self, url: str, books: Any, process: Process) -> None:
        super().__init__(url, books)
        self.process = process

    async def refuses(self) -> None:
        """Return when new connections are refused."""

        async def refused() -> bool:
            try:
                async with httpx.AsyncClient(trust_env=False) as client:
                    await client.get(f"{self.url}/ping")
            except httpx.TransportError:
                return True
            return False

        await eventually(refused)


@asynccontextmanager
async def in_container(database: Database, **environment: str) -> AsyncIterator[InContainer]:
    """A gateway in a container's process, with the seed's customer."""
    variables = {"DATABASE_URL": with_password(database.service)} | environment
    async with started(**variables) as process, books_of(database) as books:
        port = (await process.logged("listening"))["port"]
        running = InContainer(f"http://127.0.0.1:{port}", books, process)
        async with seeded(running, database):
            yield running
