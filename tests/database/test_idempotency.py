"""One Idempotency-Key: one effect and one answer, for 24 hours."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from gateway import errors
from gateway.database import Failure, call
from tests.harness.builders import BOUND, a_caller, a_request, a_settlement, crowd, of, purse, refusal

if TYPE_CHECKING:
    from tests.harness.builders import Caller, Connection
    from tests.harness.postgres import Database

pytestmark = pytest.mark.usefixtures("service")


def keyed(caller: Caller, **changes: Any) -> dict[str, Any]:
    return a_request(caller, **{"idempotency_key": "k", "fingerprint": "f"} | changes)


async def hold(caller: Caller, **changes: Any) -> str:
    """The hold of a request that is admitted and not a replay."""
    hold_id: str = (await call("authorize", **keyed(caller, **changes)))["hold_id"]
    return hold_id


async def test_a_served_request_is_answered_again_and_not_held(operator: Connection) -> None:
    caller = await a_caller(operator)
    first = await hold(caller)
    await call("settle", **a_settlement(caller, first, answer='{"id": 1}'))
    before = await operator.fetch("select * from gateway.credit_holds")
    for _ in range(2):
        answer = await call("authorize", **keyed(caller))
        assert answer["replay"] == {"hold_id": first, "answer": '{"id": 1}'}
        assert set(answer) == {"replay", "limits"}
    assert await operator.fetch("select * from gateway.credit_holds") == before
    assert await purse(operator, caller.user_id) == (99 * BOUND, 0)


async def test_a_twin_in_flight_waits_and_another_request_is_refused(operator: Connection) -> None:
    caller = await a_caller(operator)
    first = await hold(caller)
    error = await refusal(operator, **keyed(caller))
    assert (error.status, error.code, error.retry_after_ms) == (409, "idempotency_in_progress", 1000)
    for _ in range(2):
        error = await refusal(operator, **keyed(caller, fingerprint="other"))
        assert (error.status, error.code) == (422, "idempotency_key_reused")
        await call("settle", **a_settlement(caller, first, answer="a"))


async def test_sent_again_under_its_own_hold_it_is_the_same_request(operator: Connection) -> None:
    caller = await a_caller(operator)
    request = keyed(caller)
    answer = await call("authorize", **request)
    assert await call("authorize", **request) == answer
    assert await purse(operator, caller.user_id) == (100 * BOUND, BOUND)
    await call("settle", **a_settlement(caller, request["hold_id"], answer="kept"))
    assert type(await refusal(operator, **request)) is errors.Conflict
    assert (await call("authorize", **keyed(caller)))["replay"]["answer"] == "kept"


@pytest.mark.parametrize("end", ["release", "expire", "settle without an answer", "lease over"])
async def test_a_request_that_was_not_answered_lets_its_key_go(operator: Connection, end: str) -> None:
    caller = await a_caller(operator)
    first = await hold(caller)
    if end == "release":
        await call("release", **of(caller, first))
    elif end == "settle without an answer":
        await call("settle", **a_settlement(caller, first))
    else:
        await operator.execute("update gateway.credit_holds set expires_at = now()")
    if end == "expire":
        assert await call("expire_holds") == {"expired": 1}
    kept = await operator.fetchval("select count(*) from gateway.idempotency_keys")
    assert kept == (1 if end == "lease over" else 0)
    second = await hold(caller)
    late = await call("settle", **a_settlement(caller, first, answer="late"))
    assert late["state"] == ("repeated" if end == "settle without an answer" else "settled")
    assert (await refusal(operator, **keyed(caller))).code == "idempotency_in_progress"  # the late answer is not its
    await call("settle", **a_settlement(caller, second, answer="in time"))
    assert (await call("authorize", **keyed(caller)))["replay"] == {"hold_id": second, "answer": "in time"}


async def test_a_refused_request_keeps_no_key(operator: Connection) -> None:
    caller = await a_caller(operator, credit_nano=0)
    assert (await refusal(operator, **keyed(caller))).code == "insufficient_credits"
    await call(
        "grant", user_id=caller.user_id, reference=str(uuid4()), amount_nano=BOUND, reason="", actor={"name": "test"}
    )
    assert await hold(caller, fingerprint="other")


async def test_a_key_is_forgotten_after_a_day(operator: Connection) -> None:
    caller = await a_caller(operator)
    for key in ("old", "young"):
        first = await hold(caller, idempotency_key=key)
        await call("settle", **a_settlement(caller, first, answer="a"))
    age = timedelta(hours=24, seconds=1)
    await operator.execute(
        "update gateway.idempotency_keys set created_at = created_at - $1::interval where key = 'old'", age
    )
    assert await hold(caller, idempotency_key="old", fingerprint="other")  # it may stand for another now
    await operator.execute(
        "update gateway.idempotency_keys set created_at = created_at - $1::interval where key = 'old'", age
    )
    assert await call("purge_idempotency_keys") == {"purged": 1}
    assert await operator.fetchval("select key from gateway.idempotency_keys") == "young"
    assert await call("purge_idempotency_keys") == {"purged": 0}


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_key_has_one_to_255_characters(operator: Connection, key: str) -> None:
    caller = await a_caller(operator)
    assert type(await refusal(operator, **keyed(caller, idempotency_key=key))) is errors.InternalError
    assert await hold(caller, idempotency_key="x" * 255)


async def test_of_64_twins_one_is_admitted(operator: Connection, database: Database) -> None:
    caller = await a_caller(operator)
    async with crowd(database.service) as send:
        twins = [send("authorize", **keyed(caller)) for _ in range(64)]
        outcomes = await asyncio.gather(*twins, return_exceptions=True)
        held = [outcome["hold_id"] for outcome in outcomes if isinstance(outcome, dict)]
        codes = Counter(outcome.code for outcome in outcomes if isinstance(outcome, Failure))
        assert (len(held), codes) == (1, {"PT409": 63})
        await send("settle", **a_settlement(caller, held[0], answer="one"))
        again = await asyncio.gather(*(send("authorize", **keyed(caller)) for _ in range(64)))
    assert {answer["replay"]["answer"] for answer in again} == {"one"}
    assert await purse(operator, caller.user_id) == (99 * BOUND, 0)
