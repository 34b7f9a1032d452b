"""Signing in: one account however often it is asked for at once, and whose it is by its subject alone."""

from __future__ import annotations

import asyncio
import json
import secrets
from typing import TYPE_CHECKING, Any

import pytest

from gateway.database import call
from gateway.scopes import CUSTOMER, Scope
from tests.harness.builders import Caller, a_caller, a_key, a_user, acting, crowd, dump, insert, refusal

if TYPE_CHECKING:
    from tests.harness.builders import Connection
    from tests.harness.postgres import Database

pytestmark = pytest.mark.usefixtures("service")

TOGETHER = 32
ACTOR = {"ip": "198.51.100.7", "request_id": "req_1"}


def minted() -> dict[str, str]:
    return {"public_id": secrets.token_hex(6), "key_hash": f"v1:{secrets.token_hex(32)}", "last_four": "0000"}


def arriving(subject: str = "did:privy:ada", email: str | None = "ada@example.com", **changes: Any) -> dict[str, Any]:
    """Arguments of sign_in, keys minted anew."""
    identity = {"provider": "privy", "subject": subject, "email": email, "display_name": "Ada"} | changes
    keys = {part: minted() for part in ("first", "browser", "session")}
    return {
        "identity": identity,
        "made": {"username": f"user-{secrets.token_hex(6)}", "environment": "dev", **keys},
        "scopes": list(CUSTOMER),
        "browser_scopes": list(Scope),
        "seconds": 3600,
        "note": {},
        "actor": ACTOR,
    }


def with_session(arguments: dict[str, Any], scope: str = "inference") -> dict[str, Any]:
    """Arguments of authenticate with the session key of a sign-in."""
    session = arguments["made"]["session"]
    return {
        "key_id": session["public_id"], "key_hashes": [session["key_hash"]], "ip": "198.51.100.7", "referer": None,
        "scope": scope,
    }  # fmt: skip


async def counts(operator: Connection, *tables: str) -> dict[str, int]:
    return {name: await operator.fetchval(f"select count(*) from gateway.{name}") for name in tables}  # noqa: S608


async def test_a_first_sign_in_makes_everything_once(operator: Connection) -> None:
    arguments = arriving()
    made = await call("sign_in", **arguments)
    assert (made["is_first"], made["email"], made["credits_nano"]) == (True, "ada@example.com", 0)
    assert made["key"]["public_id"] == arguments["made"]["first"]["public_id"]
    keys = await operator.fetch("select kind, scopes, environment from gateway.api_keys order by id")
    assert [(row["kind"], row["scopes"]) for row in keys] == [("secret", list(CUSTOMER)), ("browser", list(Scope))]
    event = await operator.fetchrow("select event, payload from gateway.outbox")
    assert event is not None
    assert (event["event"], json.loads(event["payload"])["user_id"]) == ("user.created", made["user_id"])
    audited = await operator.fetch(
        "select action, user_id, actor, host(ip), request_id from gateway.audit_logs order by id"
    )
    assert [row[0] for row in audited] == ["user.created", "key.created", "session.started"]
    assert {tuple(row)[1:] for row in audited} == {
        (made["user_id"], f"user:{made['user_id']}", "198.51.100.7", "req_1")
    }
    caller = await call("authenticate", **with_session(arguments))
    assert (caller["user_id"], caller["scopes"]) == (made["user_id"], sorted(CUSTOMER))


async def test_a_call_that_is_sent_again_has_its_effect_once_and_is_told_the_same(operator: Connection) -> None:
    arguments = arriving()
    first = await call("sign_in", **arguments)
    stored = {name: rows for name, rows in (await dump(operator)).items() if name != "gateway.identities"}
    assert await call("sign_in", **arguments) == first
    assert {name: rows for name, rows in (await dump(operator)).items() if name != "gateway.identities"} == stored


async def test_first_sign_ins_at_the_same_moment_make_one_account(operator: Connection, database: Database) -> None:
    async with crowd(database.service, TOGETHER) as ask:
        made = await asyncio.gather(*(ask("sign_in", **arriving()) for _ in range(TOGETHER)))
    assert len({each["user_id"] for each in made}) == 1
    assert sum(each["is_first"] for each in made) == 1
    found = await counts(operator, "users", "identities", "api_keys", "outbox", "key_credentials")
    assert found == {"users": 1, "identities": 1, "api_keys": 2, "outbox": 1, "key_credentials": TOGETHER}


async def test_one_address_is_one_account_also_at_the_same_moment(operator: Connection, database: Database) -> None:
    async with crowd(database.service, TOGETHER) as ask:
        asked = (ask("sign_in", **arriving(f"did:privy:{number}")) for number in range(TOGETHER))
        made = await asyncio.gather(*asked, return_exceptions=True)
    refused = [each for each in made if isinstance(each, Exception)]
    assert {getattr(each, "message", None) for each in refused} == {"conflict"}
    assert len(refused) == TOGETHER - 1
    assert await counts(operator, "users", "identities", "outbox") == {"users": 1, "identities": 1, "outbox": 1}


async def test_a_second_sign_in_is_the_same_account_and_shows_no_secret(operator: Connection) -> None:
    first = await call("sign_in", **arriving())
    again = await call("sign_in", **arriving(email="other@example.com"))
    assert (again["user_id"], again["is_first"], again["email"]) == (first["user_id"], False, "ada@example.com")
    assert again["key"] == first["key"]
    assert await counts(operator, "users", "api_keys", "outbox") == {"users": 1, "api_keys": 2, "outbox": 1}


@pytest.mark.parametrize("changes", [{"subject": "did:privy:eve"}, {"provider": "supabase"}])
@pytest.mark.parametrize("written", ["ada@example.com", "Ada@Example.com"])
async def test_an_address_or_a_name_links_nobody(operator: Connection, changes: dict[str, Any], written: str) -> None:
    await a_user(operator, email=written)
    error = await refusal(operator, "sign_in", **arriving(**changes))
    assert (error.status, error.code, error.param) == (409, "conflict", "email")
    assert "the way you did first" in error.message


async def test_without_an_address_there_is_an_account_which_takes_a_free_one_later(operator: Connection) -> None:
    await a_user(operator, email="taken@example.com")
    assert (await call("sign_in", **arriving(email=None)))["email"] is None
    assert (await call("sign_in", **arriving(email="taken@example.com")))["email"] is None
    assert (await call("sign_in", **arriving(email="ada@example.com")))["email"] == "ada@example.com"
    assert await operator.fetchval("select email from gateway.users order by id desc") == "ada@example.com"


@pytest.mark.parametrize("status", ["suspended", "deleted"])
async def test_a_closed_account_signs_nobody_in_and_ends_its_sessions(operator: Connection, status: str) -> None:
    arguments = arriving()
    await call("sign_in", **arguments)
    await operator.execute("update gateway.users set status = $1", status)
    error = await refusal(operator, "sign_in", **arriving())
    assert (error.status, error.code) == (403, "account_closed")
    assert (await refusal(operator, "authenticate", **with_session(arguments))).code == "invalid_api_key"


async def test_a_session_of_a_sign_in_may_do_what_the_role_may(operator: Connection) -> None:
    arguments = arriving()
    await call("sign_in", **arguments)
    assert (await refusal(operator, "authenticate", **with_session(arguments, "admin:read"))).code == "role_required"
    await operator.execute("update gateway.users set role = 'admin'")
    assert "admin:read" in (await call("authenticate", **with_session(arguments, "admin:read")))["scopes"]


async def test_a_revoked_browser_key_is_replaced_at_the_next_sign_in(operator: Connection) -> None:
    before, after = arriving(), arriving()
    await call("sign_in", **before)
    await operator.execute("update gateway.api_keys set status = 'revoked' where kind = 'browser'")
    assert (await refusal(operator, "authenticate", **with_session(before))).code == "invalid_api_key"
    await call("sign_in", **after)
    assert (await call("authenticate", **with_session(after)))["user_id"]


async def test_the_oldest_session_of_a_key_ends_when_there_are_too_many(operator: Connection) -> None:
    most = await operator.fetchval("select api.max_sessions()")
    arguments = [arriving() for _ in range(most + 1)]
    for each in arguments:
        await call("sign_in", **each)
    assert (await refusal(operator, "authenticate", **with_session(arguments[0]))).code == "invalid_api_key"
    assert (await call("authenticate", **with_session(arguments[1])))["user_id"]
    assert await counts(operator, "key_credentials") == {"key_credentials": most}


async def test_a_session_key_does_less_than_its_key_and_never_outlives_its_parent(operator: Connection) -> None:
    caller = await a_caller(operator, scopes=["inference", "account:read"])
    actor = acting(caller, "inference", "account:read")
    session, child = minted(), minted()
    asked = {"asked_by": caller.public_id, "minted": session, "scopes": ["inference"], "seconds": 600, "actor": actor}
    made = await call("create_session", **asked)
    assert await call("create_session", **asked) == made
    assert len(await operator.fetch("select from gateway.audit_logs where action = 'session.started'")) == 1
    wider = asked | {"minted": minted(), "scopes": ["keys:write"], "actor": acting(caller, "inference")}
    assert (await refusal(operator, "create_session", **wider)).code == "insufficient_scope"
    longer = asked | {"asked_by": session["public_id"], "minted": child, "seconds": 86_400}
    assert await call("create_session", **longer) == made


async def test_a_session_is_ended_by_its_user_and_by_nobody_else(operator: Connection) -> None:
    arguments = arriving()
    user_id = (await call("sign_in", **arguments))["user_id"]
    public_id = arguments["made"]["session"]["public_id"]
    stranger = await a_caller(operator)
    await call("end_session", public_id=public_id, actor=acting(stranger, "inference"))
    assert (await call("authenticate", **with_session(arguments)))["user_id"] == user_id
    session = arguments["made"]["session"]
    own = acting(Caller(user_id, stranger.key_id, public_id, session["key_hash"]), "inference")
    for _ in range(2):
        await call("end_session", public_id=public_id, actor=own)
    assert (await refusal(operator, "authenticate", **with_session(arguments))).code == "invalid_api_key"
    assert len(await operator.fetch("select from gateway.audit_logs where action = 'session.ended'")) == 1


async def test_what_leaked_ends_once_and_nothing_else(operator: Connection) -> None:
    caller = await a_caller(operator)
    other = await a_key(operator, caller.user_id)
    rotated, kept = ({"public_id": secrets.token_hex(6), "key_hash": f"v1:{secrets.token_hex(32)}"} for _ in range(2))
    later = await operator.fetchval("select now() + interval '1 hour'")
    for credential in (rotated, kept):
        await insert(operator, "key_credentials", **credential, key_id=other.key_id, kind="rotated", expires_at=later)
    leaks = [
        {
            "public_id": caller.public_id,
            "key_hashes": ["v0:" + "0" * 64, caller.key_hash],
            "url": "https://example.com/x",
        },
        {"public_id": rotated["public_id"], "key_hashes": [rotated["key_hash"]], "url": None},
        {"public_id": other.public_id, "key_hashes": ["v1:" + "0" * 64], "url": None},
        {"public_id": kept["public_id"], "key_hashes": ["v1:" + "0" * 64], "url": None},
        {"public_id": "0" * 12, "key_hashes": ["v1:" + "0" * 64], "url": None},
    ]
    for _ in range(2):
        assert await call("revoke_leaked", leaks=leaks, actor={"name": "github", **ACTOR}) is None
    states = await operator.fetch("select id, status from gateway.api_keys")
    assert {tuple(row) for row in states} == {(caller.key_id, "revoked"), (other.key_id, "active")}
    assert await operator.fetchval("select public_id from gateway.key_credentials") == kept["public_id"]
    payloads = [
        json.loads(row[0])
        for row in await operator.fetch("select payload from gateway.outbox where event = 'key.leaked'")
    ]
    ended = {(each["user_id"], each["key_id"], each["ended"]) for each in payloads}
    assert ended == {(caller.user_id, caller.key_id, "key"), (caller.user_id, other.key_id, "rotated")}
    audited = await operator.fetch(
        "select user_id from gateway.audit_logs where action = 'key.leaked' and actor = 'github'"
    )
    assert [row[0] for row in audited] == [caller.user_id] * 2
