"""/user/api-keys and /user/rate-limits over HTTP."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import sealing
from gateway.scopes import Scope
from jobs import handler as jobs
from tests.functions.test_errors import error_of
from tests.harness.builders import REPORTED

if TYPE_CHECKING:
    import httpx

    from tests.harness.gateway import InProcess

KEYS = "/user/api-keys"


async def send(gateway: InProcess, method: str, path: str, body: Any = None, key: str | None = None) -> httpx.Response:
    return await gateway.client.request(method, path, headers=gateway.headers(key=key), json=body)


async def made(gateway: InProcess, key: str | None = None, **body: Any) -> dict[str, Any]:
    response = await send(gateway, "POST", KEYS, {"key_name": "mine", **body}, key)
    assert response.status_code == 201, response.text
    told: dict[str, Any] = response.json()
    return told


async def test_a_key_is_shown_once_and_works(gateway: InProcess):
    told = await made(
        gateway, limit_usd="2.5", limit_reset="daily", max_requests=3, ip_allowlist=["127.0.0.1", "2001:db8::/32"]
    )
    key = told["api_key"]
    assert (await gateway.ask(key=key)).status_code == 200
    await gateway.ended()
    shown = (await send(gateway, "GET", f"{KEYS}/{told['id']}")).json()["key"]
    assert shown["api_key"] == f"{key[:11]}…{key[-4:]}"
    assert (shown["requests_used"], shown["requests_remaining"], shown["usage_percentage"]) == (1, 2, 33)
    assert (shown["limit_usd"], shown["limit_reset"]) == ("2.5", "daily")
    assert shown["ip_allowlist"] == ["127.0.0.1/32", "2001:db8::/32"]
    assert shown["scope_permissions"] == ["inference", "account:read"]
    kept = str(await gateway.tables())
    assert key not in kept
    assert key[19:51] not in kept


async def test_keys_are_listed_by_pages_and_masked(gateway: InProcess):
    names = [f"key {number}" for number in range(5)]
    secrets = [(await made(gateway, key_name=name))["api_key"] for name in names]
    seen: list[str] = []
    cursor = ""
    for _ in range(3):
        page = (await send(gateway, "GET", f"{KEYS}?limit=2{cursor}")).json()
        assert (page["total_keys"], page["count"]) == (6, 2)
        seen += [key["key_name"] for key in page["keys"]]
        assert not any(secret in str(page) for secret in secrets)
        cursor = f"&cursor={page['next_cursor']}"
    assert seen[:5] == names[::-1]
    assert (await send(gateway, "GET", f"{KEYS}?limit=2{cursor}")).json()["keys"] == []


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"key_name": "default"}, 400, "key_name"),
        ({"key_name": ""}, 422, "key_name"),
        ({"environment_tag": "live"}, 400, "environment_tag"),
        ({"environment_tag": "moon"}, 422, "environment_tag"),
        ({"scope_permissions": []}, 422, "scope_permissions"),
        ({"scope_permissions": ["everything"]}, 422, "scope_permissions.0"),
        ({"expiration_days": 0}, 422, "expiration_days"),
        ({"max_requests": True}, 422, "max_requests"),
        ({"limit_usd": 0.00000000001}, 422, "limit_usd"),
        ({"limit_usd": -1}, 422, "limit_usd"),
        ({"limit_reset": "yearly"}, 422, "limit_reset"),
        ({"ip_allowlist": ["10.0.0.1/8"]}, 422, "ip_allowlist.0"),
        ({"ip_allowlist": ["300.1.1.1"]}, 422, "ip_allowlist.0"),
        ({"domain_referrers": ["https://a.com"]}, 422, "domain_referrers.0"),
        ({"domain_referrers": ["*"]}, 422, "domain_referrers.0"),
        ({"allowed_models": ["a b"]}, 422, "allowed_models.0"),
        ({"rpm": 601}, 400, "requests_per_minute"),
        ({"nobody_knows": 1}, 422, "nobody_knows"),
    ],
)
async def test_what_a_key_may_not_be_made_with(gateway: InProcess, body: dict[str, Any], status: int, param: str):
    await made(gateway, key_name="default")
    before = await gateway.tables()
    response = await send(gateway, "POST", KEYS, {"key_name": "mine", **body})
    code = "unprocessable" if status == 422 else "invalid_request_error"
    assert error_of(response, status, code)["param"] == param
    assert await gateway.tables() == before


async def test_nobody_hands_out_or_takes_what_he_lacks(gateway: InProcess):
    wide = await made(
        gateway, key_name="wide", scope_permissions=["inference", "account:read", "account:write", "keys:write"]
    )
    narrow = await gateway.a_key("dev", Scope.KEYS_WRITE)
    before = await gateway.tables()
    path = f"{KEYS}/{wide['id']}"
    for method, at, body in (
        ("POST", KEYS, {"key_name": "wider", "scope_permissions": ["inference"]}),
        ("PUT", path, {"action": "rotate"}),
        ("PUT", path, {"expiration_days": None}),
        ("PUT", path, {"is_active": True}),
        ("PUT", f"/user/rate-limits/{wide['id']}", {}),
        ("POST", f"{path}/secret", None),
    ):
        error_of(await send(gateway, method, at, body, narrow), 403, "insufficient_scope")
    after = await gateway.tables()
    assert {name for name in after if after[name] != before[name]} == REPORTED
    assert (await send(gateway, "PUT", path, {"is_active": False}, narrow)).status_code == 200
    error_of(await gateway.ask(key=wide["api_key"]), 403, "key_paused")


async def test_a_change_is_of_what_was_sent(gateway: InProcess):
    told = await made(gateway, limit_usd=5, expiration_days=10, domain_referrers=["A.example.com", "*.b.com"])
    path = f"{KEYS}/{told['id']}"
    changed = (await send(gateway, "PUT", path, {"key_name": "renamed", "limit_usd": None, "rpm": 7})).json()[
        "updated_key"
    ]
    assert (changed["key_name"], changed["limit_usd"], changed["expires_at"]) == ("renamed", None, told["expires_at"])
    assert changed["domain_referrers"] == ["a.example.com", "*.b.com"]
    limits = (await send(gateway, "GET", f"/user/rate-limits/{told['id']}")).json()
    assert (limits["key"]["requests_per_minute"], limits["user"]["requests_per_minute"]) == (7, 600)
    await send(gateway, "PUT", path, {"tpm": 1000})
    limits = (await send(gateway, "GET", f"/user/rate-limits/{told['id']}")).json()["key"]
    assert (limits["requests_per_minute"], limits["tokens_per_minute"]) == (7, 1000)
    replaced = (await send(gateway, "PUT", f"/user/rate-limits/{told['id']}", {"concurrency": 2})).json()["key"]
    assert replaced == {"requests_per_minute": None, "tokens_per_minute": None, "concurrency": 2}
    error_of(await send(gateway, "PUT", path, {"key_name": None}), 400, "invalid_request_error")


async def test_a_rotated_key_stays_the_same_key(gateway: InProcess):
    told = await made(gateway, max_requests=10)
    assert (await gateway.ask(key=told["api_key"])).status_code == 200
    await gateway.ended()
    path = f"{KEYS}/{told['id']}"
    first = (await send(gateway, "PUT", path, {"action": "rotate", "overlap_hours": 1})).json()
    assert first["updated_key"]["requests_used"] == 1
    for key in (told["api_key"], first["api_key"]):
        assert (await gateway.ask(key=key)).status_code == 200
    at_once = (await send(gateway, "PUT", path, {"action": "rotate", "overlap_hours": 0})).json()
    for key in (told["api_key"], first["api_key"]):
        error_of(await gateway.ask(key=key), 401, "invalid_api_key")
    assert (await gateway.ask(key=at_once["api_key"])).status_code == 200


async def test_the_key_that_asks_goes_last_only_by_force(gateway: InProcess):
    own = await gateway.books.fetchval("select id from gateway.api_keys where public_id = $1", gateway.key[7:19])
    error_of(await send(gateway, "DELETE", f"{KEYS}/{own}"), 409, "conflict")
    other = await made(gateway)
    deleted = await send(gateway, "DELETE", f"{KEYS}/{other['id']}", {"confirmation": "DELETE_KEY"})
    assert deleted.json()["deleted_key_id"] == other["id"]
    error_of(await gateway.ask(key=other["api_key"]), 401, "invalid_api_key")
    error_of(await send(gateway, "GET", f"{KEYS}/{other['id']}"), 404, "not_found")
    assert (await send(gateway, "DELETE", f"{KEYS}/{own}", {"force": True})).status_code == 200
    error_of(await gateway.ask(), 401, "invalid_api_key")


async def test_a_key_makes_no_more_requests_than_it_may(gateway: InProcess):
    told = await made(gateway, max_requests=2)
    for count in (1, 2):
        assert (await gateway.ask(key=told["api_key"])).status_code == 200
        await gateway.ended(count)
    error = error_of(await gateway.ask(key=told["api_key"]), 402, "key_limit_reached")
    assert error["metadata"]["limit_source"] == "key_limit"


async def test_usage_is_shown_by_key_and_day(gateway: InProcess):
    told = await made(gateway)
    await gateway.ask(key=told["api_key"])
    await gateway.ask()
    await gateway.ended(2)
    rows = (await send(gateway, "GET", f"{KEYS}/usage")).json()["usage"]
    assert {row["key_name"]: row["requests"] for row in rows} == {"mine": 1, f"key {gateway.key[7:11]}": 1}
    one = (await send(gateway, "GET", f"{KEYS}/usage?key_id={told['id']}")).json()["usage"]
    assert [row["key_id"] for row in one] == [told["id"]]
    error_of(await send(gateway, "GET", f"{KEYS}/usage?start_date=2020-01-01"), 400, "invalid_request_error")


async def test_the_clock_rotates_a_key_and_its_owner_fetches_the_secret_once(gateway: InProcess):
    told = await made(gateway, rotation_days=30)
    path = f"{KEYS}/{told['id']}/secret"
    error_of(await send(gateway, "POST", path), 404, "not_found")
    await gateway.books.execute(
        "update gateway.api_keys set rotated_at = now() - interval '30 days' where id = $1", told["id"]
    )
    assert await jobs.run("rotate_keys") == {"rotated": 1}
    assert await jobs.run("rotate_keys") == {"rotated": 0}
    assert (await send(gateway, "GET", f"{KEYS}/{told['id']}")).json()["key"]["has_secret_to_fetch"]
    fetched = (await send(gateway, "POST", path)).json()["api_key"]
    for key in (told["api_key"], fetched):
        assert (await gateway.ask(key=key)).status_code == 200
    error_of(await send(gateway, "POST", path), 404, "not_found")
    sealed = await gateway.books.fetchval("select sealed from gateway.key_pickups")
    assert fetched not in sealed
    assert sealing.unseal(sealed) == fetched
    events = await gateway.books.fetch("select event from gateway.outbox where event like 'key.rot%' order by id")
    assert [row["event"] for row in events] == ["key.rotation_due", "key.rotated"]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(network=st.text(max_size=60) | st.ip_addresses(network="10.0.0.0/8").map(str), host=st.text(max_size=60))
async def test_no_list_is_kept_that_cannot_be_read(gateway: InProcess, network: str, host: str):
    for body in ({"ip_allowlist": [network]}, {"domain_referrers": [host]}):
        response = await send(gateway, "POST", KEYS, {"key_name": "mine", **body})
        assert response.status_code in {201, 422, 400}, response.text
        await gateway.books.execute("update gateway.api_keys set status = 'revoked' where name = 'mine'")
