"""No function that a completion calls is planned anew by each call. Before 18, Postgres does that to functions in SQL
that it cannot inline: on 15 a completion's two calls of the database took 1.6 ms longer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from tests.harness.builders import BOUND, a_caller, a_request, a_settlement

if TYPE_CHECKING:
    from tests.harness.builders import Connection

COUNTED = """
select f.funcname from pg_stat_xact_user_functions f
  join pg_proc p on p.oid = f.funcid join pg_language l on l.oid = p.prolang
 where l.lanname = 'sql' and f.schemaname = 'api' order by 1
"""
"""Functions in SQL that were really called; one that is inlined is part of its caller's plan and is not counted."""


async def run(operator: Connection, name: str, arguments: dict[str, Any]) -> None:
    marks = ", ".join(f"{argument} => ${number}" for number, argument in enumerate(arguments, 1))
    values = [
        msgspec.json.encode(value).decode() if isinstance(value, dict | list) else value for value in arguments.values()
    ]
    await operator.fetchval(f"select api.{name}({marks})", *values)


async def planned(operator: Connection, request: dict[str, Any], settlement: dict[str, Any]) -> set[str]:
    """The functions in SQL that an authorize and its settle call."""
    await operator.execute("set track_functions = 'all'")
    async with operator.transaction():
        await run(operator, "authorize", request)
        await run(operator, "settle", settlement)
        return {row[0] for row in await operator.fetch(COUNTED)}


@pytest.mark.parametrize("once", [{}, {"idempotency_key": "once", "fingerprint": "same"}], ids=["plain", "idempotent"])
async def test_a_completion_calls_no_function_that_is_planned_anew(operator: Connection, once: dict[str, Any]) -> None:
    caller = await a_caller(operator, limit_nano=10 * BOUND, limit_reset="daily", max_requests=10)
    request = a_request(caller, **once)
    settlement = a_settlement(caller, request["hold_id"], attempts=[{"model": "acme/one", "provider": "openrouter"}])
    kept = {"memory": {"response": {"input": [], "response": {"id": "x"}}}}
    assert await planned(operator, request, settlement | kept) == set()
    assert await operator.fetchval("select count(*) from gateway.responses") == 1


@pytest.mark.parametrize(
    "request_of",
    [{"kind": "image", "image": {"size": None, "quality": None}}, {"kind": "embedding"}],
    ids=["image", "embedding"],
)
async def test_a_request_for_media_calls_none_either(operator: Connection, request_of: dict[str, Any]) -> None:
    await operator.execute("update gateway.models set kind = $1", request_of["kind"])
    await operator.execute("update gateway.offers set request_price = 5000000")
    caller = await a_caller(operator)
    request = a_request(caller, **request_of)
    assert await planned(operator, request, a_settlement(caller, request["hold_id"])) == set()


async def test_a_test_key_calls_none_either(operator: Connection) -> None:
    caller = await a_caller(operator, environment="test")
    request = a_request(caller)
    assert await planned(operator, request, a_settlement(caller, request["hold_id"], 0)) == set()
