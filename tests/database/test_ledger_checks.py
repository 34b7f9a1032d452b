"""The check of the ledger: each rule broken on purpose is found, and what is in order is added up once."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from gateway import ledger
from gateway.database import call
from tests.harness.builders import a_caller, a_request, a_settlement, a_user

if TYPE_CHECKING:
    from tests.harness.builders import Caller, Connection

pytestmark = pytest.mark.usefixtures("service")


async def used(caller: Caller, cost_nano: int = 1000) -> str:
    """A request that was settled; its hold."""
    request = a_request(caller)
    await call("authorize", **request)
    await call("settle", **a_settlement(caller, request["hold_id"], cost_nano))
    hold_id: str = request["hold_id"]
    return hold_id


async def broken(operator: Connection, user_id: int) -> list[str] | None:
    """The rules that the last check found broken for a user."""
    found: list[str] | None = await operator.fetchval(
        "select broken from gateway.ledger_checks where user_id = $1", user_id
    )
    return found


BREAKS = {
    "update gateway.users set credits_nano = credits_nano + 1": "balance is not the sum of its transactions",
    "update gateway.users set held_nano = 1": "held amount is not the sum of open holds",
    "update gateway.credit_grants set remaining_nano = 0": "less is left of grants than of the balance",
    "update gateway.users set frozen_nano = 1": "frozen amount is not the sum of frozen grants",
    "update gateway.credit_holds set cost_nano = 9 where cost_nano > 0": "settled hold and usage transaction disagree",
    "update gateway.usage_records set cost_nano = 999": "usage record and usage transaction disagree",
}  # fmt: skip


@pytest.mark.parametrize(("statement", "rule"), BREAKS.items(), ids=BREAKS.values())
@pytest.mark.parametrize("first", [False, True], ids=["", "after a check"])
async def test_what_is_broken_is_found_until_it_is_mended(
    operator: Connection, statement: str, rule: str, *, first: bool
):
    caller, other = await a_caller(operator), await a_user(operator)
    if first:
        assert (await ledger.check())["violations"] == 0
    await used(caller)
    transaction = operator.transaction()
    await transaction.start()
    await operator.execute(statement)
    found = json.loads(await operator.fetchval("select api.check_ledger(100, 100)"))
    assert found["violations"] >= 1
    assert caller.user_id in found["users"]
    rules = await broken(operator, caller.user_id)
    assert rules == [rule]
    if "users" not in statement and "grants" not in statement:
        assert await broken(operator, other) is None
    again = json.loads(await operator.fetchval("select api.check_ledger(100, 100)"))
    assert again["users"] == found["users"], "what is broken is not passed over the next time"
    await transaction.rollback()
    assert (await ledger.check())["violations"] == 0


async def test_what_was_added_up_is_not_read_again(operator: Connection):
    caller = await a_caller(operator)
    await used(caller)
    assert (await ledger.check())["violations"] == 0
    kept = await operator.fetchrow("select * from gateway.ledger_checks where user_id = $1", caller.user_id)
    balance = await operator.fetchval("select credits_nano from gateway.users where id = $1", caller.user_id)
    assert kept is not None
    assert kept["sum_nano"] == balance
    await used(caller, 500)
    await operator.execute("update gateway.ledger_checks set sum_nano = sum_nano + 1")
    assert (await ledger.check())["violations"] == 1, "the sum so far is believed"
    await operator.execute("update gateway.ledger_checks set sum_nano = sum_nano - 1")
    assert (await ledger.check())["violations"] == 0


async def test_users_are_checked_in_turn(operator: Connection):
    users = [await a_user(operator) for _ in range(5)]
    turns = [(await call("check_ledger", most=2, most_rows=10))["checked"] for _ in range(4)]
    assert turns == [2, 2, 1, 2]
    checked = await operator.fetch("select user_id from gateway.ledger_checks order by 1")
    assert [row[0] for row in checked] == users


async def test_many_rows_are_read_in_parts(operator: Connection):
    caller = await a_caller(operator)
    for _ in range(7):
        await used(caller)
    for _ in range(6):
        assert (await call("check_ledger", most=10, most_rows=2))["violations"] == 0
    kept = await operator.fetchval("select sum_nano from gateway.ledger_checks where user_id = $1", caller.user_id)
    assert kept == await operator.fetchval("select credits_nano from gateway.users where id = $1", caller.user_id)


async def test_a_record_without_its_entry_is_found_in_any_part(operator: Connection):
    caller = await a_caller(operator)
    for _ in range(5):
        await used(caller)
    transaction = operator.transaction()
    await transaction.start()
    await operator.execute(
        "update gateway.usage_records set cost_nano = 1"
        " where created_at = (select max(created_at) from gateway.usage_records)"
    )
    found: list[dict[str, Any]] = [
        json.loads(await operator.fetchval("select api.check_ledger(10, 2)")) for _ in range(6)
    ]
    assert found[0]["violations"] == 0
    assert found[-1]["users"] == [caller.user_id]
    await transaction.rollback()


async def test_a_hold_that_outlived_the_sweep_is_found(operator: Connection):
    caller = await a_caller(operator)
    await call("authorize", **a_request(caller, hold_id=str(uuid4())))
    transaction = operator.transaction()
    await transaction.start()
    await operator.execute("update gateway.credit_holds set expires_at = now() - interval '11 minutes'")
    found = json.loads(await operator.fetchval("select api.check_ledger(10, 10)"))
    assert (found["violations"], found["users"]) == (1, [])
    await transaction.rollback()
