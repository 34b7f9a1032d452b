"""What a key gives is never more than it has, and nothing is given after its end."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from gateway import keyring
from gateway.scopes import CUSTOMER, Scope
from tests.functions.test_errors import error_of
from tests.functions.test_keys import KEYS, made, send
from tests.harness.gateway import eventually

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.harness.gateway import InProcess
    from tests.harness.postgres import Database

SCOPES = [str(scope) for scope in CUSTOMER]
WAITING = "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and datname = current_database()"
NETWORKS = ["127.0.0.0/8", "::1/128"]


async def restricted(gateway: InProcess, **settings: Any) -> tuple[int, str]:
    """A key of the customer's that may write keys, with restrictions: its id and secret."""
    told = await made(gateway, key_name="restricted", scope_permissions=SCOPES, **settings)
    return told["id"], told["api_key"]


def kept(told: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: told[name] for name in names}


async def test_a_key_hands_its_restrictions_on(gateway: InProcess):
    own = {"allowed_models": ["sandbox/chat"], "ip_allowlist": NETWORKS, "retention": "none"}
    _, key = await restricted(gateway, **own, expiration_days=5)
    told = await made(gateway, key)
    assert kept(told, *own) == own
    assert told["expires_at"] == await gateway.books.fetchval(
        "select to_jsonb(expires_at) #>> '{}' from gateway.api_keys where name = 'restricted'"
    )
    narrower = {"ip_allowlist": ["127.0.0.1/32"], "expiration_days": 1}
    assert (await made(gateway, key, key_name="narrower", **narrower))["ip_allowlist"] == ["127.0.0.1/32"]


@pytest.mark.parametrize(
    ("own", "given", "param"),
    [
        ({"allowed_models": ["sandbox/chat"]}, {"allowed_models": None}, "allowed_models"),
        ({"allowed_models": ["sandbox/chat"]}, {"allowed_models": ["sandbox/chat", "x/y"]}, "allowed_models"),
        ({"ip_allowlist": NETWORKS}, {"ip_allowlist": ["126.0.0.0/7"]}, "ip_allowlist"),
        ({"ip_allowlist": NETWORKS}, {"ip_allowlist": None}, "ip_allowlist"),
        ({"retention": "none"}, {"retention": "metadata"}, "retention"),
        ({"expiration_days": 5}, {"expiration_days": 6}, "expiration_days"),
        ({"expiration_days": 5}, {"expiration_days": None}, "expiration_days"),
        ({"environment_tag": "test"}, {"environment_tag": "dev"}, "environment_tag"),
        ({"limit_usd": 1}, {"limit_usd": 1}, None),
        ({"max_requests": 5}, {}, None),
        ({"rpm": 5}, {"rpm": 5}, None),
    ],
)
async def test_a_key_makes_and_changes_none_that_is_wider(
    gateway: InProcess, own: dict[str, Any], given: dict[str, Any], param: str | None
):
    _, key = await restricted(gateway, **own)
    wide = await made(gateway)
    before = await gateway.rows("select * from gateway.api_keys order by id")
    for method, at, body in (
        ("POST", KEYS, {"key_name": "wider", **given}),
        ("PUT", f"{KEYS}/{wide['id']}", {"key_name": "renamed"}),
        ("PUT", f"{KEYS}/{wide['id']}", {"action": "rotate"}),
    ):
        error = error_of(await send(gateway, method, at, body, key), 403, "insufficient_scope")
        assert error["param"] == param
    assert await gateway.rows("select * from gateway.api_keys order by id") == before


@pytest.mark.parametrize(
    ("own", "given"),
    [
        ({"limit_usd": 1}, {"limit_usd": None}), ({"max_requests": 5}, {"max_requests": 9}),
        ({"ip_allowlist": NETWORKS}, {"ip_allowlist": None}), ({"allowed_models": ["a/b"]}, {"key_name": "x"}),
        ({"retention": "metadata"}, {"retention": "full"}), ({"expiration_days": 5}, {"expiration_days": 4}),
        ({"tpm": 500}, {"tpm": 600}),
    ],
)  # fmt: skip
async def test_a_restricted_key_does_not_change_itself(gateway: InProcess, own: dict[str, Any], given: dict[str, Any]):
    own_id, key = await restricted(gateway, **own)
    before = await gateway.rows("select * from gateway.api_keys order by id")
    error_of(await send(gateway, "PUT", f"{KEYS}/{own_id}", given, key), 403, "insufficient_scope")
    error_of(await send(gateway, "PUT", f"/user/rate-limits/{own_id}", {}, key), 403, "insufficient_scope")
    assert await gateway.rows("select * from gateway.api_keys order by id") == before
    rotated = await send(gateway, "PUT", f"{KEYS}/{own_id}", {"action": "rotate"}, key)
    assert (await send(gateway, "PUT", f"{KEYS}/{own_id}", given)).status_code == 200
    paused = await send(gateway, "PUT", f"{KEYS}/{own_id}", {"is_active": False}, rotated.json()["api_key"])
    assert paused.status_code == 200


async def test_referers_are_handed_on(gateway: InProcess):
    key = await gateway.a_key("dev", *CUSTOMER)
    await gateway.books.execute(
        "update gateway.api_keys set referers = '{*.example.com,b.com}' where public_id = $1", key[7:19]
    )
    headers = gateway.headers({"referer": "https://b.com/"}, key)

    async def makes(name: str, hosts: list[str] | None) -> int:
        body = {"key_name": name, "domain_referrers": hosts}
        return (await gateway.client.post(KEYS, headers=headers, json=body)).status_code

    assert await makes("one", ["a.example.com", "*.b.example.com", "b.com"]) == 201
    for hosts in (["example.com"], ["b.com", "c.com"], ["*.b.com"], None):
        assert await makes("wider", hosts) == 403


async def test_what_ends_before_its_key_makes_nothing_that_stays(gateway: InProcess):
    """A session key, and a secret that was rotated away; the session of a sign-in is the person's own."""
    own = await made(gateway, key_name="own", scope_permissions=SCOPES)
    asked = {"scopes": SCOPES, "expires_in": 600}
    session = await gateway.client.post("/auth/session-keys", headers=gateway.headers(key=own["api_key"]), json=asked)
    told = session.json()
    assert (await made(gateway, told["session_key"]))["expires_at"] == told["expires_at"]
    path = f"{KEYS}/{own['id']}"
    await send(gateway, "PUT", path, {"action": "rotate", "overlap_hours": 1}, own["api_key"])
    for key in (told["session_key"], own["api_key"]):
        error_of(await send(gateway, "PUT", path, {"action": "rotate"}, key), 403, "insufficient_scope")
        error_of(await send(gateway, "PUT", path, {"key_name": "x"}, key), 403, "insufficient_scope")
    assert (await made(gateway, own["api_key"], key_name="late"))["expires_at"] is not None


async def test_the_former_secret_fetches_the_one_that_the_clock_made(gateway: InProcess):
    own = await made(gateway, scope_permissions=SCOPES, rotation_days=1)
    await gateway.books.execute(
        "update gateway.api_keys set rotated_at = now() - interval '1 day' where id = $1", own["id"]
    )
    assert await keyring.rotate_due() == {"rotated": 1}
    fetched = await send(gateway, "POST", f"{KEYS}/{own['id']}/secret", None, own["api_key"])
    assert (await gateway.ask(key=fetched.json()["api_key"])).status_code == 200


async def test_who_tries_is_reported_once(gateway: InProcess):
    key_id, key = await restricted(gateway, limit_usd=1)
    admin = {"key_name": "wide", "scope_permissions": [Scope.ADMIN_USERS]}
    asked: tuple[tuple[str, str, Any], ...] = (
        ("POST", KEYS, admin), ("PUT", f"{KEYS}/{key_id}", {"limit_usd": 2}),
        ("PUT", f"/user/rate-limits/{key_id}", {}), ("POST", "/auth/session-keys", {"scopes": [Scope.ADMIN_USERS]}),
    )  # fmt: skip
    refused = await asyncio.gather(*(send(gateway, method, path, body, key) for method, path, body in asked * 3))
    assert {response.status_code for response in refused} == {403}
    alerts = await gateway.rows("select kind, subject, user_id, key_id from gateway.alerts")
    assert alerts == [
        {"kind": "refused_key_change", "subject": f"key:{key_id}", "user_id": gateway.user_id, "key_id": key_id}
    ]
    logs = await gateway.client.get("/user/api-keys/audit-logs?action=key.overreached", headers=gateway.headers())
    assert [entry["resource"] for entry in logs.json()["logs"]] == [f"key:{key_id}"]


@asynccontextmanager
async def ending(database: Database, script: str, *values: Any) -> AsyncIterator[asyncpg.Connection]:
    """A change that the operator has begun and that is committed when the block has ended and somebody waits for it."""
    other = await asyncpg.connect(database.admin)
    try:
        async with other.transaction():
            await other.fetch(script, *values)
            yield other
    finally:
        await other.close()


async def waits(gateway: InProcess) -> None:
    async def found() -> bool:
        return bool(await gateway.books.fetchval(WAITING))

    await eventually(found)


DELETE = """select api.delete_key(k.id, k.user_id, true, '{"name": "test"}')
  from gateway.api_keys k where k.public_id = $1"""
ROTATE = """select api.rotate_key(k.id, k.user_id, jsonb_build_object('public_id', 'another00000',
  'key_hash', 'v1:' || repeat('a', 64), 'last_four', '0000'), 0,
  jsonb_build_object('name', 'test', 'scopes', k.scopes))
  from gateway.api_keys k where k.public_id = $1"""
DELETE_USER = """select api.delete_user(k.user_id, '{"name": "test"}') from gateway.api_keys k where k.public_id = $1"""
MADE = """select (select count(*) from gateway.api_keys), (select count(*) from gateway.key_credentials),
  (select count(*) from gateway.webhooks), (select count(*) from gateway.provider_keys)"""


@pytest.mark.parametrize("end", [DELETE, ROTATE, DELETE_USER], ids=["deleted", "rotated", "account ended"])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", KEYS, {"key_name": "late"}),
        ("POST", "/auth/session-keys", {}),
        ("PUT", "/user/provider-keys/openrouter", {"api_key": "sk-or-v1-of-nobody-0123456789"}),
    ],
)
async def test_nothing_is_made_after_the_end_of_its_key(
    gateway: InProcess, database: Database, end: str, method: str, path: str, body: Any
):
    """The request was authenticated before, and waited for the change that ended its key."""
    key = await gateway.a_key("dev", *CUSTOMER)
    async with ending(database, end, key[7:19]):
        asked = asyncio.create_task(send(gateway, method, path, body, key))
        await waits(gateway)
    error_of(await asked, 401, "invalid_api_key")
    found = await gateway.books.fetchrow(MADE)
    assert list(found or []) == [3, 0, 0, 0]
