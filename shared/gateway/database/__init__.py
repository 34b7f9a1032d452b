"""The one door to the database: `call` runs one SQL function of schema `api` and returns what it returned.

A promise that every function of `api` keeps: run twice with the same arguments, its effect happens once,
because its caller gives it the ids of whatever it makes. So a call whose connection broke is sent again
without asking whether the first one was committed.
"""

from __future__ import annotations

import asyncio
import secrets
from typing import Any, Protocol

import msgspec

from gateway import errors, telemetry

TRIES = 3
PAUSE_S = 0.04
"""Longest pause before the second try of a contended call; it doubles with each further try."""

LOST = frozenset({"08003", "08006", "57P01", "57P02", "57P05", "PGRST001", "26000", "42P05"})
"""A connection broke, ours or PostgREST's: while the environment was frozen, or as the server restarted. Or it is no
connection but a pooler's, whose server does not have our prepared statement, or has another's (POOLED in postgres.py).
"""

CONTENDED = frozenset({"40001", "40P01", "55P03"})
"""Undone because of another transaction: serialization failure, deadlock, lock timeout."""

REPLACED = "cache lookup failed for function"
"""What Postgres says (XX000) when a deploy replaced a function between a call's planning and its running."""

UNAVAILABLE = (
    *CONTENDED,
    "08",  # connections
    "25006",  # read-only: a full disk or a replica
    "42883",  # the function is not there (yet): a deploy is under way
    "53",  # out of connections, memory or disk
    "57",  # shutting down, starting up, or out of time
    "PGRST0",  # PostgREST has no connection or no schema cache
    "PGRST202",  # PostgREST's schema cache lacks the function
    "PGRSTX",  # PostgREST itself failed
)
"""SQLSTATEs, SQLSTATE classes and PostgREST codes of a database that cannot answer at the moment.

https://www.postgresql.org/docs/current/errcodes-appendix.html
https://docs.postgrest.org/en/stable/references/errors.html
"""


class Failure(Exception):
    """A call that failed, as its transport reports it: SQLSTATE or PostgREST code, message and detail.

    Only `call` sees it; the text may quote rows and must not reach a client.
    """

    def __init__(self, code: str, message: str = "", detail: str | None = None) -> None:
        super().__init__(f"{code} {message}")
        self.code = code
        self.message = message
        self.detail = detail

    @property
    def tries(self) -> int:
        """How often a call that fails like this is sent, all in all."""
        if self.code in CONTENDED or self.message.startswith(REPLACED):
            return TRIES
        return 2 if self.code in LOST else 1


class Transport(Protocol):
    """A way to run functions of schema `api`, bound to the event loop that it was made in."""

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Sends one call once and returns its decoded result. Raises Failure."""

    async def close(self) -> None:
        """Gives its connections back."""


async def call(name: str, /, **arguments: Any) -> Any:
    """Runs `api.name(argument => value, …)`, one round trip and one transaction; returns its decoded jsonb.

    Arguments are str, int, bool, None, UUID, datetime or Decimal for SQL scalars and dict, list or msgspec.Raw for
    jsonb.

    Raises the GatewayError that the function refused with (`errcode = 'PT402', message =
    'insufficient_credits', detail = '{"retry_after_ms": 100}'`); DatabaseUnavailable when no answer came
    within 5 s for a connection and 10 s for the function, or when it lost to other transactions 3 times;
    InternalError for everything else.
    """
    transport = _transport()
    tried = 0
    while True:
        try:
            return await transport.call(name, arguments)
        except Failure as failure:
            tried += 1
            if tried >= failure.tries:
                raise _error(name, failure) from failure
            if failure.code not in LOST:
                await asyncio.sleep(PAUSE_S * 2 ** (tried - 1) * secrets.randbelow(1000) / 1000)


def use(transport: Transport) -> None:
    """Sends the running loop's calls through `transport` instead of the one that the settings name."""
    _transports[asyncio.get_running_loop()] = transport


def prepare() -> None:
    """Makes the running loop's transport, so that its modules are imported before the first call; connects nothing."""
    _transport()


async def close() -> None:
    """Gives the running loop's connections back; a later call opens new ones."""
    if transport := _transports.pop(asyncio.get_running_loop(), None):
        await transport.close()


_transports: dict[asyncio.AbstractEventLoop, Transport] = {}


def _transport() -> Transport:
    loop = asyncio.get_running_loop()
    if (transport := _transports.get(loop)) is None:
        for closed in [other for other in _transports if other.is_closed()]:
            del _transports[closed]
        transport = _transports[loop] = _chosen()
    return transport


def _chosen() -> Transport:
    """The transport that the settings name; the other one is never imported (supabase alone takes 0.4 s)."""
    from gateway.settings import settings  # noqa: PLC0415

    if settings.database_url:
        from gateway.database.postgres import Postgres  # noqa: PLC0415

        return Postgres(settings.database_url.reveal(), settings.database_pooler)
    if not (settings.supabase_url and settings.supabase_service_key):
        raise RuntimeError("neither DATABASE_URL nor SUPABASE_URL with SUPABASE_SERVICE_KEY is set")
    from gateway.database.supabase import Supabase  # noqa: PLC0415

    return Supabase(settings.supabase_url, settings.supabase_service_key.reveal())


def _error(name: str, failure: Failure) -> errors.GatewayError:
    if failure.code.startswith("PT") and (error := errors.refusal(failure.message, _members(failure.detail))):
        return error
    if failure.code.startswith(UNAVAILABLE):
        failed = {"DatabaseFailures": 1}
        telemetry.log("database_unavailable", level="WARNING", metrics=failed, function=name, sqlstate=failure.code)
        return errors.DatabaseUnavailable()
    telemetry.log("database_failed", level="ERROR", function=name, sqlstate=failure.code)
    return errors.InternalError()


def _members(detail: str | None) -> dict[str, Any]:
    try:
        members = msgspec.json.decode(detail or "{}")
    except msgspec.DecodeError:
        return {}
    return members if isinstance(members, dict) else {}
