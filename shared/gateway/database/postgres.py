"""The postgres transport: asyncpg, one round trip a call (two through a transaction pooler).

asyncpg's own pool costs twice the CPU of the call itself (a task, a shield and two timeouts each time), and
its timers close connections that it does not look at; ours are looked at when they are taken.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import uuid4

import asyncpg
import msgspec

from gateway import telemetry
from gateway.database import LOST, Failure
from gateway.database.shares import Share, Shares

if TYPE_CHECKING:
    from gateway.settings import Pooler

    AnyConnection = asyncpg.Connection[asyncpg.Record]
else:
    AnyConnection = asyncpg.Connection

TRANSACTION_POOLER_PORT = 6543
"""Supabase's pooler in transaction mode: each transaction may meet another server connection, which knows none of our
prepared statements (https://supabase.com/docs/guides/database/connecting-to-postgres). DATABASE_POOLER names others."""

POOLED = frozenset({"26000", "42P05"})
"""A prepared statement is not there, or is there already. A pooler in transaction mode answers that to a client which
keeps statements; nothing has run then."""
CACHED_STATEMENTS = 100

CONNECTIONS = 10
MOST_A_USER = 4
"""Of the connections; further calls for the same user wait, and others have the rest."""
CONNECT_TIMEOUT_S = 5
COMMAND_TIMEOUT_S = 10
IDLE_S = 300
"""A connection unused for longer is replaced: networks forget it in silence (AWS NAT gateways after 350 s)."""

BROKEN = (asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError, OSError)
"""All that asyncpg raises; a TimeoutError is an OSError."""


class Connection(AnyConnection):
    """A connection whose prepared statements have names that no other connection's have.

    asyncpg counts them in each process. Behind a pooler that we do not know of yet, a statement of the same name that
    another process made would run in place of ours; a name that nobody else has is refused instead (POOLED).
    """

    keeps_statements = True

    def _get_unique_id(self, prefix: str) -> str:
        return f"__asyncpg_{prefix}_{uuid4().hex}__"


class Postgres:
    """At most ten connections to one database, opened as calls need them, for the running event loop."""

    def __init__(self, url: str, pooler: Pooler | None = None) -> None:
        self._url = url
        known = pooler or ("transaction" if urlsplit(url).port == TRANSACTION_POOLER_PORT else None)
        self._keeps_statements = known != "transaction"
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._shares = Shares(CONNECTIONS, MOST_A_USER)
        self._idle: list[tuple[Connection, float]] = []
        self._closing: set[asyncio.Task[None]] = set()
        self._clock = asyncio.get_running_loop().time

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Sends one call once and returns its decoded result. Raises Failure."""
        statement = _statement(name, tuple(arguments))
        values = [_encoded(value) for value in arguments.values()]
        owner = self._shares.owner_of(arguments)
        share = self._shares.enter(owner)
        try:
            text = await self._call(share, statement, values)
        finally:
            self._shares.leave(owner, share)
        answer = None if text is None else msgspec.json.decode(text)
        self._shares.learn(arguments, answer)
        return answer

    async def _call(self, share: Share, statement: str, values: list[Any]) -> str | None:
        connection = await self._take(share)
        sound = False
        try:
            text = await _run(connection, statement, values)
            sound = True
        except asyncpg.PostgresError as error:
            failure = Failure(error.sqlstate or "XX000", error.message or "", error.detail)
            sound = failure.code not in LOST
            if failure.code in POOLED and self._keeps_statements:
                self._keeps_statements = False
                telemetry.log("database_pooler_found", level="WARNING", sqlstate=failure.code)
            if not sound:
                self._drop_idle()
            raise failure from error
        except TimeoutError as error:
            raise Failure("57014", "timed out") from error
        except BROKEN as error:
            self._drop_idle()
            raise Failure("08006", "connection lost") from error
        finally:
            share.turns.release()
            self._give(connection, sound=sound)
        return text

    async def close(self) -> None:
        """Waits for the calls that run, at most as long as one may take; closes every connection."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(COMMAND_TIMEOUT_S):
                for _ in range(CONNECTIONS):
                    await self._slots.acquire()
        self._drop_idle()
        await asyncio.gather(*self._closing)

    async def _take(self, share: Share) -> Connection:
        """A connection for one call of this share: the one used last, or a new one. Both are taken, or neither."""
        is_free = not (self._slots.locked() or share.turns.locked())
        if is_free and (connection := self._reusable()):
            await share.turns.acquire()  # neither waits, so they need no timeout
            await self._slots.acquire()
            return connection
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT_S), contextlib.AsyncExitStack() as given_up:
                for turns in (share.turns, self._slots):
                    await turns.acquire()
                    given_up.callback(turns.release)
                connection = self._reusable() or await self._connect()
                given_up.pop_all()
                return connection
        except BROKEN as error:
            raise Failure("08001", "no connection") from error

    def _reusable(self) -> Connection | None:
        while self._idle:
            connection, since = self._idle.pop()
            if not connection.is_closed():
                if self._clock() - since < IDLE_S:
                    return connection
                connection.terminate()
        return None

    async def _connect(self) -> Connection:
        keeps = self._keeps_statements
        connection = await asyncpg.connect(
            self._url,
            connection_class=Connection,
            statement_cache_size=CACHED_STATEMENTS if keeps else 0,
            command_timeout=COMMAND_TIMEOUT_S,
        )
        connection.keeps_statements = keeps
        return connection

    def _give(self, connection: Connection, *, sound: bool) -> None:
        """Takes a connection back, and resets nothing: no call sets anything outside its transaction.

        One whose call was given up is closed when the server knows.
        """
        self._slots.release()
        if sound and connection.keeps_statements == self._keeps_statements:
            self._idle.append((connection, self._clock()))
        elif not connection.is_closed():
            closing = asyncio.create_task(_close(connection))
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    def _drop_idle(self) -> None:
        """Closes the connections that nobody uses: what cut one of them has cut the others."""
        for connection, _ in self._idle:
            connection.terminate()
        self._idle.clear()


async def _run(connection: Connection, statement: str, values: list[Any]) -> str | None:
    """The first value of a statement. A plan that a deploy left behind is made anew: asyncpg and the server
    keep the argument types of a prepared statement, and refuse a function that now takes others."""
    try:
        text: str | None = await connection.fetchval(statement, *values)
    except (asyncpg.UndefinedFunctionError, asyncpg.DataError):
        await connection.reload_schema_state()
        text = await connection.fetchval(statement, *values)
    return text


async def _close(connection: Connection) -> None:
    try:
        await connection.close(timeout=CONNECT_TIMEOUT_S)
    except BROKEN:
        connection.terminate()


@functools.cache
def _statement(name: str, parameters: tuple[str, ...]) -> str:
    for identifier in (name, *parameters):
        if not identifier.isidentifier():
            raise ValueError(f"not an SQL name: {identifier!r}")
    arguments = ", ".join(f"{parameter} => ${number}" for number, parameter in enumerate(parameters, 1))
    return f"select api.{name}({arguments})"


def _encoded(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, dict | list | msgspec.Raw) else value
