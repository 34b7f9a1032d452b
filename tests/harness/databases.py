"""Databases of a server's own template, copied ahead of need and dropped behind the test that had them."""

from __future__ import annotations

import asyncio
import secrets
import threading
from typing import TYPE_CHECKING

import asyncpg

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import Future

    from local.postgres import Server

DEADLINE_S = 60


class Databases:
    """Copies of templates by name. All work is done by one thread, in the order in which it was asked for, so that a
    test neither waits for the copy that it will get nor for the end of the one that it had.
    """

    def __init__(self, server: Server) -> None:
        self._server = server
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="databases", daemon=True)
        self._turn = asyncio.Lock()
        self._ahead: dict[str, Future[str]] = {}
        self._drops: list[Future[None]] = []
        self._thread.start()

    async def take(self, template: str) -> str:
        """The name of a database like `template`; the next one is then copied. Raises asyncpg.PostgresError."""
        ready = self._ahead.pop(template, None) or self._begin(self._create(template))
        self._ahead[template] = self._begin(self._create(template))
        return await asyncio.wrap_future(ready)

    def give_back(self, name: str) -> None:
        """Have a database dropped, with all who are still connected to it. A failure is raised by `close`."""
        self._drops = [drop for drop in self._drops if not drop.done() or drop.exception()]
        self._drops.append(self._begin(self._drop(name)))

    def close(self) -> None:
        """Return when everything is done that was asked for. Raises what a drop failed with."""
        try:
            for copy in self._ahead.values():
                copy.result(DEADLINE_S)
            for drop in self._drops:
                drop.result(DEADLINE_S)
        finally:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(DEADLINE_S)
            self._loop.close()

    def _begin[T](self, work: Coroutine[None, None, T]) -> Future[T]:
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    async def _create(self, template: str) -> str:
        name = f"test_{secrets.token_hex(4)}"
        await self._execute(f"create database {name} template {template} strategy file_copy")
        # a database's own grants are no part of its template
        await self._execute(
            "do $$ begin if exists (select from pg_roles where rolname = 'gateway_owner') then"
            f" grant create on database {name} to gateway_owner; end if; end $$"
        )
        return name

    async def _drop(self, name: str) -> None:
        await self._execute(f"drop database {name} with (force)")

    async def _execute(self, statement: str) -> None:
        async with self._turn:
            connection = await asyncpg.connect(self._server.url())
            try:
                await connection.execute(statement)
            finally:
                await connection.close()
