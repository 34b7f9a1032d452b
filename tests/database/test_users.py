"""Users, what they are given and own, and that nobody else's rows are reached by naming them."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from gateway import errors
from gateway.database import call
from gateway.scopes import Scope
from tests.harness.builders import BOUND, a_caller, a_request, a_settlement, a_user, crowd, dump, of, purse, refusal

if TYPE_CHECKING:
    from tests.harness.builders import Caller, Connection
    from tests.harness.postgres import Database

ADMIN = {"name": "user:1", "scopes": list(Scope)}

pytestmark = pytest.mark.usefixtures("service")


async def test_a_user_starts_without_credit_and_is_audited(operator: Connection) -> None:
    made = await call("create_user", username="ada", email="ada@example.com", role="user", actor=ADMIN)
    row = await operator.fetchrow("select * from gateway.users where id = $1", made["user_id"])
    assert row is not None
    assert (row["username"], row["role"], row["status"], row["credits_nano"]) == ("ada", "user", "active", 0)
    audit = await operator.fetchrow("select actor, action, resource from gateway.audit_logs")
    assert audit is not None
    assert tuple(audit) == ("user:1", "user.created", f"user:{made['user_id']}")


@pytest.mark.parametrize(("username", "email"), [("ada", "b@example.com"), ("bob", "ada@example.com")])
async def test_a_taken_name_or_address_is_a_conflict(operator: Connection, username: str, email: str) -> None:
    await call("create_user", username="ada", email="ada@example.com", role="user", actor=ADMIN)
    error = await refusal(operator, "create_user", username=username, email=email, role="admin", actor=ADMIN)
    assert type(error) is errors.Conflict


async def test_only_known_roles_are_given(operator: Connection) -> None:
    error = await refusal(operator, "create_user", username="a", email=None, role="owner", actor=ADMIN)
    assert type(error) is errors.NotFound


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


async def grant(caller: Caller, amount_nano: int = BOUND, reference: str | None = None) -> dict[str, Any]:
    arguments = {"user_id": caller.user_id, "amount_nano": amount_nano, "reference": reference or str(uuid4())}
    granted: dict[str, Any] = await call("grant", **arguments, reason="why", actor=ADMIN)
    return granted


async def test_a_grant_counts_once_is_audited_and_told(operator: Connection) -> None:
    caller = await a_caller(operator, credit_nano=0)
    made = await grant(caller, 5, "invoice 1")
    assert (made["granted"], made["credits_nano"]) == (True, 5)
    assert await grant(caller, 5, "invoice 1") == made | {"granted": False}
    assert await grant(await a_caller(operator, credit_nano=0), 7, "invoice 1") == {
        "granted": False,
        "credits_nano": 0,
        "transaction_id": None,
    }
    audit = await operator.fetch("select actor, resource, after from gateway.audit_logs")
    assert [tuple(row) for row in audit] == [
        (
            "user:1",
            f"user:{caller.user_id}",
            '{"kind": "promotional", "reference": "invoice 1", "expires_at": null, "credits_nano": 5}',
        )
    ]
    events = await operator.fetch("select event, payload->'user_id' as user_id from gateway.outbox")
    assert [tuple(row) for row in events] == [("credits.granted", str(caller.user_id))]


@pytest.mark.parametrize("amount", [0, -1, -(2**63)])
async def test_a_grant_is_positive(operator: Connection, amount: int) -> None:
    user_id = await a_user(operator)
    arguments = {"user_id": user_id, "reference": "r", "reason": "", "actor": ADMIN}
    error = await refusal(operator, "grant", **arguments, amount_nano=amount)
    assert (error.status, error.param) == (400, "amount_nano")
    error = await refusal(operator, "grant", **arguments | {"user_id": 0}, amount_nano=1)
    assert type(error) is errors.NotFound


async def test_one_reference_from_32_connections_grants_once(operator: Connection, database: Database) -> None:
    caller = await a_caller(operator, credit_nano=0)
    arguments = {"user_id": caller.user_id, "reference": "payment", "amount_nano": 7, "reason": "", "actor": ADMIN}
    async with crowd(database.service, 32) as send:
        answers = await asyncio.gather(*(send("grant", **arguments) for _ in range(32)))
    assert Counter(answer["granted"] for answer in answers) == {True: 1, False: 31}
    assert await purse(operator, caller.user_id) == (7, 0)


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
