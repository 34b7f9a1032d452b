"""Users, what they own, and that nobody else's rows are reached by naming them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from gateway import errors
from gateway.database import call
from tests.harness.builders import BOUND, a_caller, a_request, a_settlement, dump, of, purse, refusal

if TYPE_CHECKING:
    from tests.harness.builders import Connection

pytestmark = pytest.mark.usefixtures("service")


async def test_a_user_starts_without_credit_and_is_audited(operator: Connection) -> None:
    made = await call("create_user", username="ada", email="ada@example.com", role="user", actor="user:1")
    row = await operator.fetchrow("select * from gateway.users where id = $1", made["user_id"])
    assert row is not None
    assert (row["username"], row["role"], row["status"], row["credits_nano"]) == ("ada", "user", "active", 0)
    audit = await operator.fetchrow("select actor, action, resource from gateway.audit_logs")
    assert audit is not None
    assert tuple(audit) == ("user:1", "user.created", f"user:{made['user_id']}")


@pytest.mark.parametrize(("username", "email"), [("ada", "b@example.com"), ("bob", "ada@example.com")])
async def test_a_taken_name_or_address_is_a_conflict(operator: Connection, username: str, email: str) -> None:
    await call("create_user", username="ada", email="ada@example.com", role="user", actor="test")
    error = await refusal(
        operator, "create_user", username=username, email=email, role="admin", actor="test"
    )
    assert type(error) is errors.Conflict


async def test_only_known_roles_are_given(operator: Connection) -> None:
    error = await refusal(operator, "create_user", username="a", email=None, role="owner", actor="test")
    assert type(error) is errors.InternalError


async def test_credits_are_the_sums_of_the_ledger(operator: Connection) -> None:
    caller = await a_caller(operator, credit_nano=10 * BOUND)
    spent, _ = [(await call("authorize", **a_request(caller)))["hold_id"] for _ in range(2)]
    await call("settle", **a_settlement(caller, spent, cost_nano=7))
    assert await call("credits", user_id=caller.user_id) == {
        "credits_nano": 10 * BOUND - 7,
        "held_nano": BOUND,
        "granted_nano": 10 * BOUND,
        "used_nano": 7,
    }
    assert await call("credits", user_id=0) is None


async def test_a_foreign_hold_is_not_settled_and_nobody_pays(operator: Connection) -> None:
    owner, stranger = await a_caller(operator), await a_caller(operator)
    request = a_request(owner, idempotency_key="k", fingerprint="f")
    hold = (await call("authorize", **request))["hold_id"]
    before = await dump(operator)
    answer = await call("settle", **a_settlement(stranger, hold, answer="stolen"))
    assert answer == {"state": "repeated", "credits_nano": 100 * BOUND}
    assert await dump(operator) == before
    assert (await call("settle", **a_settlement(owner, hold)))["state"] == "settled"


async def test_a_foreign_hold_is_not_released_and_looks_unknown(operator: Connection) -> None:
    owner, stranger = await a_caller(operator), await a_caller(operator)
    hold = (await call("authorize", **a_request(owner)))["hold_id"]
    before = await dump(operator)
    foreign = await call("release", **of(stranger, hold))
    assert foreign == await call("release", **of(stranger, str(uuid4()))) == {"released": False}
    assert await dump(operator) == before


async def test_a_hold_is_not_taken_over_under_its_id(operator: Connection) -> None:
    owner, stranger = await a_caller(operator), await a_caller(operator)
    hold = (await call("authorize", **a_request(owner)))["hold_id"]
    error = await refusal(operator, **a_request(stranger, hold_id=hold))
    assert type(error) is errors.Conflict
    assert await purse(operator, stranger.user_id) == (100 * BOUND, 0)


async def test_an_idempotency_key_is_its_users_own(operator: Connection) -> None:
    owner, stranger = await a_caller(operator), await a_caller(operator)
    hold = await call("authorize", **a_request(owner, idempotency_key="k", fingerprint="f"))
    await call("settle", **a_settlement(owner, hold["hold_id"], answer="private"))
    answer = await call("authorize", **a_request(stranger, idempotency_key="k", fingerprint="other"))
    assert "replay" not in answer
    assert answer["user_id"] == stranger.user_id
