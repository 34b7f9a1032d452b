"""Every change that a person asks for is confirmed in its own transaction: nothing is made by a key that has ended."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway.database import call
from gateway.errors import Unauthenticated
from tests.database.grants import MAY_EXECUTE
from tests.harness.builders import a_caller, acting, dump, refusal

if TYPE_CHECKING:
    from tests.harness.builders import Connection

pytestmark = pytest.mark.usefixtures("service")

PEOPLE = {
    "gateway_account", "gateway_admin", "gateway_auth", "gateway_billing", "gateway_trials", "gateway_history",
    "gateway_chat", "gateway_catalog",
}  # fmt: skip
"""The roles of functions that serve people."""

PROVED_OTHERWISE = {
    "sign_in": "an issuer's token",
    "start_recovery": "nothing: it mails the address's owner",
    "recover_account": "the token that was mailed",
    "revoke_leaked": "GitHub's signature",
    "unsubscribe": "the link's signature",
}
"""Who asks for these shows who he is by something else than a key."""

RECORDS = {
    "record_payment": "what Stripe has", "record_subscription": "what Stripe has", "attach_payment": "Stripe's ids",
    "customer": "Stripe's id", "record_refusal": "a refused key", "report_overreach": "what was refused",
    "raise_alert": "what was refused",
}  # fmt: skip
"""These write down what has happened elsewhere, whoever looks."""

OWN_DATA = {"referral_code", "session", "create_session_of", "change_session", "delete_session", "add_message",
            "delete_response"}  # fmt: skip
"""Chats, responses and a code of the account's own: none of them lets anybody do anything."""

INFERENCE = {"authorize", "settle", "release"}
"""Each verifies, or ends what was verified."""

READS = {"authenticate", "quote", "response", "response_inputs"}
"""Each verifies, and changes nothing but the bucket that it takes a management request from."""

CHANGES = """
select p.proname as name, p.proargnames[:p.pronargs] as names, p.proargtypes::regtype[]::text[] as types
  from pg_proc p where p.pronamespace = 'api'::regnamespace and p.provolatile = 'v' and p.prosecdef order by 1
"""
VALUES: dict[str, Any] = {
    "bigint": 1, "integer": 60, "text": "x", "jsonb": {}, "boolean": False, "timestamp with time zone": None,
}  # fmt: skip
LISTS = {"scopes", "events", "blocked"}


async def changes(operator: Connection) -> dict[str, dict[str, str]]:
    """The functions that people have run and that may change something: the types of their parameters by name."""
    found = await operator.fetch(CHANGES)
    return {
        row["name"]: dict(zip(row["names"] or [], [t.strip() for t in row["types"]], strict=True))
        for row in found
        if MAY_EXECUTE.get(row["name"], set()) & PEOPLE
    }


async def test_every_change_that_a_person_asks_for_names_him(operator: Connection) -> None:
    known = {*PROVED_OTHERWISE, *RECORDS, *OWN_DATA, *INFERENCE, *READS}
    found = await changes(operator)
    assert {name for name, types in found.items() if "actor" not in types} - known == set()
    assert known <= found.keys()


async def test_no_change_is_made_by_a_key_that_has_ended(operator: Connection) -> None:
    """A key that was good when its request came in, and was deleted before the change began."""
    caller = await a_caller(operator)
    actor = acting(caller, "keys:write", "admin:users")
    await operator.execute("update gateway.api_keys set status = 'revoked' where id = $1", caller.key_id)
    before, asked = await dump(operator), 0
    for name, types in (await changes(operator)).items():
        if "actor" not in types or name in {**PROVED_OTHERWISE, **RECORDS}:
            continue
        arguments = {one: [] if one in LISTS else VALUES[kind] for one, kind in types.items()}
        arguments |= {"actor": actor} | ({"user_id": caller.user_id} if "user_id" in types else {})
        with pytest.raises(Unauthenticated):
            await call(name, **arguments)
        asked += 1
    assert asked > 25
    assert await dump(operator) == before


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ("update gateway.api_keys set scopes = '{inference}' where id = $1", "insufficient_scope"),
        ("update gateway.api_keys set status = 'paused' where id = $1", "key_paused"),
        ("update gateway.api_keys set ip_allowlist = '{203.0.113.0/24}' where id = $1", "ip_not_allowed"),
        ("update gateway.users u set role = 'none' from gateway.api_keys k where k.id = $1", "role_required"),
    ],
)
async def test_what_a_key_may_is_looked_at_once_more(operator: Connection, change: str, code: str) -> None:
    await operator.execute("insert into gateway.roles (name, scopes) values ('none', '{}')")
    caller = await a_caller(operator, scopes=["keys:write"])
    actor = acting(caller, "keys:write")
    await operator.execute(change, caller.key_id)
    arguments = {"user_id": caller.user_id, "provider": "openrouter", "sealed": "x", "last_four": "0000"}
    assert (await refusal(operator, "put_provider_key", **arguments, actor=actor)).code == code


async def test_who_names_a_user_without_a_credential_is_a_function_of_the_version_before(operator: Connection) -> None:
    caller = await a_caller(operator, scopes=["keys:write"])
    actor = acting(caller, "keys:write")
    del actor["credential"]
    arguments = {"user_id": caller.user_id, "key_id": caller.key_id, "force": True}
    assert (await refusal(operator, "delete_key", **arguments, actor=actor)).code == "database_unavailable"


async def test_an_actor_acts_by_no_key_of_another(operator: Connection) -> None:
    caller, other = await a_caller(operator, scopes=["keys:write"]), await a_caller(operator)
    actor = acting(caller, "keys:write") | {"user_id": other.user_id}
    arguments = {"user_id": other.user_id, "key_id": other.key_id, "force": True}
    assert (await refusal(operator, "delete_key", **arguments, actor=actor)).code == "invalid_api_key"


async def test_what_ended_the_key_that_asked_may_be_sent_again(operator: Connection) -> None:
    """The answer was lost: the same request does nothing more, and is answered as it was."""
    caller = await a_caller(operator, scopes=["keys:write"])
    arguments = {"user_id": caller.user_id, "key_id": caller.key_id, "actor": acting(caller, "keys:write")}
    secret = {"public_id": "rotated00000", "key_hash": "v1:" + "a" * 64, "last_four": "0000"}
    rotated = await call("rotate_key", **arguments, minted=secret, overlap_s=0)
    assert await call("rotate_key", **arguments, minted=secret, overlap_s=0) == rotated
    assert rotated["public_id"] == secret["public_id"]
    entries = await operator.fetch("select after from gateway.audit_logs where action = 'key.rotated'")
    assert [json.loads(entry["after"])["public_id"] for entry in entries] == [secret["public_id"]]
