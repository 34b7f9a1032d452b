"""Who may ask: one good key in one Authorization header, and nothing else in any other place."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

import pytest

from gateway import keys
from tests.functions.test_errors import error_of
from tests.harness.gateway import HELLO, InProcess, app
from tests.security.matrix import BODIES, SCOPES, spelled

if TYPE_CHECKING:
    import httpx

CHAT = "/v1/chat/completions"
PRIVATE = [(method, spelled(path)) for (method, path), scope in SCOPES.items() if scope is not None]
PUBLIC = ("/v1/models", "/v1/models/sandbox/chat", "/health", "/ping")
BODY = {"model": "sandbox/chat", "messages": HELLO}
TOLD = {(method, spelled(path)): body for (method, path), body in BODIES.items()}
"""What a route has to be told before it looks at who asks."""
NEAR_KEYS = 10_000


async def knock(gateway: InProcess, method: str, path: str, headers: list[tuple[str, str]]) -> httpx.Response:
    lines = [(name.encode(), value.encode()) for name, value in headers]
    return await gateway.client.request(
        method, path, headers=lines, json=None if method == "GET" else TOLD.get((method, path), BODY)
    )


async def direct(method: str, path: str, credentials: str) -> int:
    """The status of a request with these credentials, without a server between."""
    status = 0

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        nonlocal status
        status = message.get("status", status)

    headers = [(b"authorization", f"Bearer {credentials}".encode())]
    scope = {"type": "http", "method": method, "path": path, "query_string": b"", "headers": headers}
    await app(scope, receive, send)
    return status


@pytest.mark.slow("every guarded route with every shape of header that is not one good key")
async def test_without_one_good_key_nothing_is_asked(gateway: InProcess):
    before, key = await gateway.tables(), gateway.key
    other = keys.mint("live").plaintext
    wrong = {
        "none": [],
        "empty": [("authorization", "")],
        "no credentials": [("authorization", "Bearer")],
        "no scheme": [("authorization", key)],
        "Basic": [("authorization", f"Basic {key}")],
        "a token": [("authorization", f"Token {key}")],
        "two headers": [("authorization", f"Bearer {key}"), ("authorization", f"Bearer {key}")],
        "two, the first of another kind": [("authorization", "Basic x"), ("Authorization", f"Bearer {key}")],
        "two in one": [("authorization", f"Bearer {key}, Bearer {key}")],
        "twice": [("authorization", f"Bearer Bearer {key}")],
        "quoted": [("authorization", f'Bearer "{key}"')],
        "of another stage": [("authorization", f"Bearer {other}")],
        "renamed to this stage": [("authorization", f"Bearer {other.replace('_live_', '_dev_')}")],
        "in upper case": [("authorization", f"Bearer {key.upper()}")],
        "without its checksum": [("authorization", f"Bearer {key[:-6]}")],
        "longer": [("authorization", f"Bearer {key}0")],
        "very long": [("authorization", f"Bearer {key}{'0' * 20_000}")],
        "with a tab": [("authorization", f"Bearer\t{key}")],
        "in x-api-key": [("x-api-key", key)],
        "in a cookie": [("cookie", f"authorization=Bearer {key}")],
    }
    for method, path in PRIVATE:
        for name, headers in wrong.items():
            if (name, path) == ("in x-api-key", "/v1/messages"):
                continue  # where Anthropic's SDKs put it
            response = await knock(gateway, method, path, headers)
            error_of(response, 401, "invalid_api_key")
            assert response.headers["www-authenticate"] == "Bearer", name
            assert key not in response.text
            assert other not in response.text
        for query in (f"?api_key={key}", f"?key={key}", f"?authorization=Bearer%20{key}"):
            error_of(await knock(gateway, method, path + query, []), 401, "invalid_api_key")
    response = await gateway.client.post(CHAT, json={**BODY, "api_key": key})
    error_of(response, 401, "invalid_api_key")
    assert gateway.line.calls == []
    assert await gateway.tables() == before


async def test_near_keys_are_refused_before_the_database_is_asked(gateway: InProcess):
    before = await gateway.tables()
    for number in range(NEAR_KEYS):
        at = secrets.randbelow(len(gateway.key))
        letter = secrets.choice([letter for letter in keys.ALPHABET + "_-." if letter != gateway.key[at]])
        near = gateway.key[:at] + letter + gateway.key[at + 1 :]
        assert await direct(*PRIVATE[number % len(PRIVATE)], near) == 401, near
    assert await direct("GET", "/v1/key", "gw_dev_" + "\u0661" * 50) == 401
    assert gateway.line.calls == []
    assert await gateway.tables() == before


async def test_well_formed_keys_of_nobody(gateway: InProcess):
    before = await gateway.tables()
    for method, path in PRIVATE:
        for environment in ("dev", "test"):
            header = ("authorization", f"Bearer {keys.mint(environment).plaintext}")
            error_of(await knock(gateway, method, path, [header]), 401, "invalid_api_key")
    assert await gateway.tables() == before
    counted = await gateway.books.fetch("select code, network::text, count from gateway.refusals")
    assert [tuple(row) for row in counted] == [("invalid_api_key", "127.0.0.0/24", 1)] * 2 * len(PRIVATE)


async def test_a_known_id_with_another_secret(gateway: InProcess, monkeypatch: pytest.MonkeyPatch):
    """The public id finds the row; only the secret opens it."""
    public = gateway.key[7:19]
    choices = iter(public + "0" * 32)
    monkeypatch.setattr("gateway.keys.secrets.choice", lambda _: next(choices))
    forged = keys.mint("dev")
    assert forged.id == public
    for method, path in PRIVATE:
        response = await knock(gateway, method, path, [("authorization", f"Bearer {forged.plaintext}")])
        error_of(response, 401, "invalid_api_key")


async def test_spellings_of_the_scheme(gateway: InProcess):
    for scheme in ("bearer", "BEARER", "Bearer "):
        response = await knock(gateway, "GET", "/v1/key", [("authorization", f"{scheme} {gateway.key}")])
        assert response.status_code == 200


async def test_what_is_public_asks_for_no_key(gateway: InProcess):
    for path in PUBLIC:
        for headers in ([], [("authorization", "Bearer nonsense")]):
            response = await knock(gateway, "GET", path, headers)
            assert response.status_code == 200
            assert response.headers["cache-control"] == ("public, max-age=60" if path == "/v1/models" else "no-store")
            assert "x-request-id" in response.headers


async def test_a_caller_sees_its_own_account_only(gateway: InProcess):
    first = gateway.key
    await gateway.ask()
    await gateway.ended()
    await gateway.customer(5 * 10**9)
    for key, total in ((first, 100), (gateway.key, 5)):
        shown = (await gateway.client.get("/v1/credits", headers=gateway.headers(key=key))).json()["data"]
        assert (shown["total_credits"], shown["total_usage"] > 0) == (total, key == first)
        told = (await gateway.client.get("/v1/key", headers=gateway.headers(key=key))).json()["data"]
        assert told["key"] == f"{key[:11]}…{key[-4:]}"
