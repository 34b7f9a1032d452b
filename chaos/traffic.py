"""Clients that bear everything: they count what came of each request, and go on."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import re
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp

from bench.measure import percentile

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

PAUSE_S = 0.05
"""Before the next request of a client who was refused."""
WAIT_S = 60
GENERATION = re.compile(rb'"id": ?"gen-([0-9a-f-]{36})"')
"""A completion's id, which has its hold's."""


@dataclass(slots=True)
class Tally:
    """What came of the requests of one phase."""

    outcomes: Counter[str] = field(default_factory=Counter)
    """answered; refused (a clear error of ours); broken (no whole answer)."""
    statuses: Counter[int] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    """Of the completions that were answered."""

    def figures(self) -> dict[str, float]:
        found = {name: float(self.outcomes[name]) for name in ("answered", "refused", "broken")}
        return found | {"p50 ms": percentile(self.latencies_ms, 0.5), "max ms": max(self.latencies_ms, default=0)}


class Traffic:
    """Mixed requests by `keys` at one gateway, as long as the block lasts."""

    def __init__(self, url: str, keys: Sequence[str]) -> None:
        self.url, self.keys = url, keys
        self.tally = Tally()
        self.answered: set[str] = set()
        """The holds of completions that were answered whole since the beginning."""
        self._turn = itertools.count()

    @contextlib.asynccontextmanager
    async def running(self, clients: int) -> AsyncIterator[None]:
        """`clients` closed loops."""
        async with self.session() as session:
            tasks = [asyncio.create_task(self._client(session, number)) for number in range(clients)]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    @contextlib.asynccontextmanager
    async def session(self) -> AsyncIterator[aiohttp.ClientSession]:
        connector = aiohttp.TCPConnector(limit=0)
        async with aiohttp.ClientSession(
            self.url, connector=connector, timeout=aiohttp.ClientTimeout(WAIT_S)
        ) as session:
            yield session

    async def storm(self, requests: int) -> None:
        """This many completions at once."""
        async with self.session() as session:
            await asyncio.gather(*(self.complete(session, n, stream=n % 2 == 0) for n in range(requests)))

    async def is_served(self) -> bool:
        """Whether a completion is answered now; no phase counts it."""
        async with self.session() as session:
            status, text = await self._asked(session, 0, stream=False)
        if status == 200:
            self._note(text)
        return status == 200

    async def complete(self, session: aiohttp.ClientSession, number: int, *, stream: bool) -> None:
        """One completion, read to its end."""
        began = time.perf_counter()
        status, text = await self._asked(session, number, stream=stream)
        if status == 200 and stream and b"data: [DONE]" not in text:
            status = 0
        if status == 200:
            self._note(text)
            self.tally.latencies_ms.append(1000 * (time.perf_counter() - began))
        self._count(status)

    async def leave(self, session: aiohttp.ClientSession, number: int) -> None:
        """A stream whose client leaves after its first bytes."""
        body = {"model": "bench/model", "max_tokens": 64, "stream": True, "messages": message("n=50;d=20000")}
        with contextlib.suppress(aiohttp.ClientError, TimeoutError, OSError):
            async with session.post("/v1/chat/completions", json=body, headers=self.headers(number)) as response:
                await response.content.readany()
                response.close()

    async def read(self, session: aiohttp.ClientSession, number: int) -> None:
        """A page of one's own."""
        path = ("/v1/models", "/v1/credits", "/user/balance", "/user/api-keys")[number % 4]
        status, _ = await self._send(session, "GET", path, number, None)
        self._count(status)

    def headers(self, number: int) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.keys[number % len(self.keys)]}"}

    async def _client(self, session: aiohttp.ClientSession, number: int) -> None:
        while True:
            turn, before = next(self._turn), self.tally.outcomes["answered"]
            if turn % 10 == 9:
                await self.leave(session, number)
            elif turn % 10 in {3, 6}:
                await self.read(session, turn)
            else:
                await self.complete(session, number, stream=turn % 2 == 0)
            if self.tally.outcomes["answered"] == before:
                await asyncio.sleep(PAUSE_S)

    async def _asked(self, session: aiohttp.ClientSession, number: int, *, stream: bool) -> tuple[int, bytes]:
        body = {"model": "bench/model", "max_tokens": 64, "stream": stream, "messages": message("n=8;d=1000;w=8")}
        return await self._send(session, "POST", "/v1/chat/completions", number, body)

    async def _send(
        self, session: aiohttp.ClientSession, method: str, path: str, number: int, body: Any
    ) -> tuple[int, bytes]:
        """Status and body; 0 when there was no whole answer."""
        try:
            async with session.request(method, path, json=body, headers=self.headers(number)) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError):
            return 0, b""

    def _note(self, text: bytes) -> None:
        if found := GENERATION.search(text):
            self.answered.add(found[1].decode())

    def _count(self, status: int) -> None:
        self.tally.statuses[status] += 1
        self.tally.outcomes["answered" if status == 200 else "refused" if status else "broken"] += 1


def message(directives: str) -> list[dict[str, str]]:
    """Messages that steer the fake upstream (bench/upstream.py)."""
    return [{"role": "user", "content": f"Say something. bench:{directives}"}]
