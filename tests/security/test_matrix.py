"""Each route against each kind of caller: who may not is told why, and leaves nothing behind."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway.scopes import Scope
from local import seed
from tests.security.matrix import BODIES, KEY_IDS, PROVEN, SCOPES, deployed, is_for, spelled

if TYPE_CHECKING:
    import httpx

    from tests.harness.gateway import InProcess
    from tests.security.matrix import Route

GUARDED = [(route, scope) for route, scope in SCOPES.items() if scope is not None]
PUBLIC = [route for route, scope in SCOPES.items() if scope is None]
SPOILT = {
    "revoked": ("status = 'revoked'", 401, "invalid_api_key"),
    "expired": ("expires_at = now()", 401, "expired_api_key"),
    "paused": ("status = 'paused'", 403, "key_paused"),
    "wrong address": ("ip_allowlist = '{203.0.113.0/24}'", 403, "ip_not_allowed"),
    "wrong referer": ("referers = '{example.com}'", 403, "referer_not_allowed"),
    "rights taken away": ("scopes = '{}'", 403, "insufficient_scope"),
}
"""What may be wrong with a key that is allowed everything."""


def named(case: Any) -> str:
    return " ".join(case) if isinstance(case, tuple) else str(case)


async def asked(gateway: InProcess, route: Route, key: str | None, at: object = "999999") -> httpx.Response:
    method, path = route
    headers = {"authorization": f"Bearer {key}"} if key else {}
    body = None if method == "GET" else BODIES.get(route, {})
    return await gateway.client.request(method, spelled(path, at), headers=headers, json=body)


def told(response: httpx.Response) -> tuple[int, Any]:
    """A refusal without what differs by request."""
    error = response.json()["error"]
    return response.status_code, error | {"metadata": {**error.get("metadata", {}), "request_id": ""}}


async def a_key_of(gateway: InProcess, role: str, *scopes: Scope) -> str:
    """A key with these scopes, or all, of a fresh user with a role."""
    user_id = await seed.add_user(gateway.books, f"a {role}", role, credit_nano=seed.START_CREDIT_NANO)
    minted = await seed.add_key(gateway.books, user_id, scopes=scopes or tuple(Scope))
    return minted.plaintext


async def spoil(gateway: InProcess, key: str, change: str) -> None:
    await gateway.books.execute(f"update gateway.api_keys set {change} where public_id = $1", key[7:19])  # noqa: S608


def test_every_deployed_route_is_in_the_matrix() -> None:
    assert set(SCOPES) == deployed()


@pytest.mark.parametrize(("route", "scope"), GUARDED, ids=named)
async def test_who_may_not_is_refused_and_leaves_nothing(gateway: InProcess, route: Route, scope: Scope):
    others = [each for each in Scope if each != scope]
    await gateway.books.execute("insert into gateway.roles (name, scopes) values ('all-but-one', $1)", others)
    await gateway.books.execute("insert into gateway.roles (name, scopes) values ('one', $1)", [scope])
    cases: dict[str, tuple[str | None, int, str]] = {
        "no key": (None, 401, "invalid_api_key"),
        "wrong scope": (await a_key_of(gateway, "admin", *others), 403, "insufficient_scope"),
        "a role without it": (await a_key_of(gateway, "all-but-one"), 403, "role_required"),
    }
    if not is_for(scope, "user"):
        cases["a customer"] = (gateway.key, 403, "role_required")
    allowed_all = await seed.add_user(gateway.books, "another admin", "admin")
    for name, (change, status, code) in SPOILT.items():
        minted = await seed.add_key(gateway.books, allowed_all)
        await spoil(gateway, minted.plaintext, change)
        cases[name] = (minted.plaintext, status, code)
    suspended = await a_key_of(gateway, "one")
    await gateway.books.execute("update gateway.users set status = 'suspended' where role = 'one'")
    cases["suspended"] = (suspended, 401, "invalid_api_key")
    before = await gateway.tables()
    for name, (key, status, code) in cases.items():
        response = await asked(gateway, route, key)
        assert (response.status_code, response.json()["error"]["code"]) == (status, code), name
    assert await gateway.tables() == before
    await gateway.books.execute("update gateway.users set status = 'active' where role = 'one'")
    for key in (suspended, gateway.admin_key, *([gateway.key] if is_for(scope, "user") else [])):
        answer = await asked(gateway, route, key)
        assert answer.status_code not in {401, 405, 500}
        assert answer.status_code != 403 or answer.json()["error"]["code"] == "trial_not_available"


@pytest.mark.parametrize("route", PUBLIC, ids=named)
async def test_what_is_public_is_so_for_everybody(gateway: InProcess, route: Route):
    """A key in the header changes nothing; sign-in and the scanner's reports are proven by what they carry."""
    before = await gateway.tables()
    await spoil(gateway, gateway.key, "status = 'revoked'")
    answers = [await asked(gateway, route, key) for key in (None, gateway.key, gateway.admin_key)]
    assert len({answer.status_code for answer in answers}) == 1
    assert answers[0].is_success == (route[0] == "GET" and "{" not in route[1] and route not in PROVEN)
    await spoil(gateway, gateway.key, "status = 'active'")
    assert await gateway.tables() == before


@pytest.mark.parametrize("route", sorted(KEY_IDS), ids=named)
async def test_what_is_another_tenants_is_as_if_it_were_not(gateway: InProcess, route: Route):
    theirs = await gateway.books.fetchval("select id from gateway.api_keys where public_id = $1", gateway.key[7:19])
    stranger = await a_key_of(gateway, "user")
    before = await gateway.tables()
    unknown, foreign = [await asked(gateway, route, stranger, at) for at in (theirs + 1000, theirs)]
    assert (foreign.status_code, foreign.json()["error"]["code"]) == (404, "not_found")
    assert told(foreign) == told(unknown)
    assert await gateway.tables() == before
    own = await asked(gateway, route, gateway.key, theirs)
    assert own.status_code != 404 or route[1].endswith("/secret")
