"""The jobs function: schedules and the queue of settlements."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import msgspec
import pytest

from gateway import database as door
from gateway.errors import DatabaseUnavailable
from gateway.settings import Secret, settings
from jobs import handler as jobs
from tests.harness.builders import a_caller, a_request, a_settlement

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from tests.harness.builders import Caller, Connection
    from tests.harness.postgres import Database

type Invoke = Callable[[dict[str, Any]], Any]


@pytest.fixture
async def invoke(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Invoke]:
    """The handler as the stock runtime calls it: outside any event loop, with the database of this test."""
    own = msgspec.structs.replace(settings, database_url=Secret(database.login("jobs")))
    monkeypatch.setattr("gateway.settings.settings", own)

    async def invoke(event: dict[str, Any]) -> Any:
        return await asyncio.to_thread(jobs.handler, event, None)

    yield invoke
    await asyncio.to_thread(jobs._runner.run, door.close())


@pytest.fixture
async def caller(operator: Connection) -> Caller:
    return await a_caller(operator)


def record(body: str) -> dict[str, Any]:
    return {"messageId": str(uuid4()), "body": body, "eventSource": "aws:sqs", "attributes": {}}


def message(caller: Caller, hold_id: str) -> str:
    return json.dumps(a_settlement(caller, hold_id))


async def states(operator: Connection) -> dict[str, str]:
    return {str(row[0]): row[1] for row in await operator.fetch("select id, state from gateway.credit_holds")}


@pytest.mark.usefixtures("service")
async def test_a_schedule_runs_its_job(invoke: Invoke, operator: Connection, caller: Caller):
    request = a_request(caller)
    await door.call("authorize", **request)
    assert await invoke({"job": "expire_holds"}) == {"expired": 0}
    await operator.execute("update gateway.credit_holds set expires_at = now()")
    assert await invoke({"job": "expire_holds"}) == {"expired": 1}
    assert await invoke({"job": "expire_holds"}) == {"expired": 0}
    assert await states(operator) == {request["hold_id"]: "expired"}
    assert await operator.fetchval("select held_nano from gateway.users where id = $1", caller.user_id) == 0


@pytest.mark.usefixtures("service")
async def test_answers_are_kept_for_a_day(invoke: Invoke, operator: Connection, caller: Caller):
    for key in ("fresh", "stale"):
        await door.call("authorize", **a_request(caller, idempotency_key=key, fingerprint="f"))
    stale = "update gateway.idempotency_keys set created_at = now() - interval '25 hours' where key = 'stale'"
    await operator.execute(stale)
    assert await invoke({"job": "purge_idempotency_keys"}) == {"purged": 1}
    assert await operator.fetchval("select string_agg(key, ',') from gateway.idempotency_keys") == "fresh"


@pytest.mark.parametrize("event", [{"job": "drop_everything"}, {"job": ""}, {}, {"job": None}])
async def test_an_unknown_job_raises(invoke: Invoke, event: dict[str, Any]):
    with pytest.raises(KeyError):
        await invoke(event)


async def test_a_job_fails_loudly_without_the_database(invoke: Invoke, monkeypatch: pytest.MonkeyPatch):
    nobody = msgspec.structs.replace(settings, database_url=Secret("postgresql://gateway@127.0.0.1:1/gateway"))
    monkeypatch.setattr("gateway.settings.settings", nobody)
    with pytest.raises(DatabaseUnavailable):
        await invoke({"job": "expire_holds"})


@pytest.mark.usefixtures("service")
async def test_a_poisoned_message_alone_comes_again(invoke: Invoke, operator: Connection, caller: Caller):
    first, second = a_request(caller), a_request(caller)
    for request in (first, second):
        await door.call("authorize", **request)
    good = [record(message(caller, request["hold_id"])) for request in (first, second)]
    bad = [
        record("not json"),
        record("{}"),
        record(json.dumps({**a_settlement(caller, str(uuid4())), "usage": {}})),
        record(json.dumps({**a_settlement(caller, str(uuid4())), "user_id": "1"})),
        record(json.dumps(a_settlement(caller, "no uuid"))),
        record(json.dumps(a_settlement(caller, str(uuid4()), -1))),
    ]
    answer = await invoke({"Records": [good[0], *bad, good[1]]})
    assert [failure["itemIdentifier"] for failure in answer["batchItemFailures"]] == [each["messageId"] for each in bad]
    assert await states(operator) == {first["hold_id"]: "settled", second["hold_id"]: "settled"}


@pytest.mark.usefixtures("service")
async def test_duplicates_count_once(invoke: Invoke, operator: Connection, caller: Caller):
    request = a_request(caller)
    await door.call("authorize", **request)
    before = await operator.fetchval("select credits_nano from gateway.users where id = $1", caller.user_id)
    delivered = record(message(caller, request["hold_id"]))
    for _ in range(3):
        assert await invoke({"Records": [delivered, delivered]}) == {"batchItemFailures": []}
    after = await operator.fetchval("select credits_nano from gateway.users where id = $1", caller.user_id)
    assert before - after == a_settlement(caller, "")["usage"]["cost_nano"]
    assert await operator.fetchval("select count(*) from gateway.usage_records") == 1


@pytest.mark.usefixtures("service")
async def test_a_settlement_whose_hold_is_gone_is_booked(invoke: Invoke, operator: Connection, caller: Caller):
    lost = str(uuid4())
    assert await invoke({"Records": [record(message(caller, lost))]}) == {"batchItemFailures": []}
    assert await states(operator) == {lost: "settled"}


async def test_every_message_comes_again_while_the_database_is_away(
    invoke: Invoke, operator: Connection, caller: Caller, monkeypatch: pytest.MonkeyPatch
):
    nobody = msgspec.structs.replace(settings, database_url=Secret("postgresql://gateway@127.0.0.1:1/gateway"))
    monkeypatch.setattr("gateway.settings.settings", nobody)
    records = [record(message(caller, str(uuid4()))) for _ in range(3)]
    answer = await invoke({"Records": records})
    assert [failure["itemIdentifier"] for failure in answer["batchItemFailures"]] == [r["messageId"] for r in records]
    assert await states(operator) == {}
