"""Session keys: POST /auth/session-keys and DELETE /auth/session."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from gateway.scopes import CUSTOMER, Scope
from tests.functions.test_errors import error_of

if TYPE_CHECKING:
    import httpx

    from tests.harness.gateway import InProcess


async def a_session(gateway: InProcess, key: str | None = None, **body: Any) -> httpx.Response:
    return await gateway.client.post("/auth/session-keys", headers=gateway.headers(key=key), json=body)


async def test_a_session_key_does_what_it_was_made_for_until_it_is_ended(gateway: InProcess):
    made = await a_session(gateway)
    told = made.json()
    assert (made.status_code, told["scopes"]) == (201, ["inference"])
    assert 3500 < datetime.fromisoformat(told["expires_at"]).timestamp() - time.time() < 3700
    key = told["session_key"]
    assert (await gateway.ask(key=key)).status_code == 200
    credits = await gateway.client.get("/v1/credits", headers=gateway.headers(key=key))
    error_of(credits, 403, "insufficient_scope")
    ended = await gateway.client.delete("/auth/session", headers=gateway.headers(key=key))
    assert ended.json() == {"success": True, "message": "The session has ended."}
    error_of(await gateway.ask(key=key), 401, "invalid_api_key")
    assert (await gateway.ask()).status_code == 200


async def test_a_session_key_is_never_wider_or_longer_than_what_made_it(gateway: InProcess):
    key = await gateway.a_key("dev", *CUSTOMER)
    admin = [Scope.INFERENCE, Scope.ADMIN_READ]
    error_of(await a_session(gateway, key, scopes=admin), 403, "insufficient_scope")
    parent = (await a_session(gateway, key, scopes=list(CUSTOMER), expires_in=60)).json()
    child = (await a_session(gateway, parent["session_key"], expires_in=86_400)).json()
    assert child["expires_at"] == parent["expires_at"]
    narrow = (await a_session(gateway, key)).json()["session_key"]
    error_of(await a_session(gateway, narrow, scopes=["account:read"]), 403, "insufficient_scope")


@pytest.mark.parametrize(
    "body",
    [
        {"expires_in": 59}, {"expires_in": 86_401}, {"expires_in": "60"}, {"expires_in": True}, {"scopes": []},
        {"scopes": ["everything"]}, {"scopes": "inference"}, {"user_id": 1},
    ],
)  # fmt: skip
async def test_session_keys_that_cannot_be_asked_for(gateway: InProcess, body: dict[str, Any]):
    error_of(await a_session(gateway, **body), 422, "unprocessable")


async def test_a_key_that_is_no_session_key_is_not_ended(gateway: InProcess):
    error_of(await gateway.client.delete("/auth/session", headers=gateway.headers()), 400, "invalid_request_error")
    assert (await gateway.ask()).status_code == 200
