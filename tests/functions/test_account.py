"""GET /v1/credits and /v1/key: an account as its key sees it, exact to the nano-dollar."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from tests.functions.test_errors import error_of

if TYPE_CHECKING:
    from tests.harness.gateway import InProcess

NANO = 10**9


async def shown(gateway: InProcess, path: str) -> dict[str, Any]:
    response = await gateway.client.get(path, headers=gateway.headers())
    assert response.status_code == 200
    told = json.loads(response.content, parse_float=Decimal)
    assert told.keys() == {"data"}
    data: dict[str, Any] = told["data"]
    return data


async def test_credits(gateway: InProcess):
    assert await shown(gateway, "/v1/credits") == {
        "total_credits": 100,
        "total_usage": 0,
        "balance_usd": "100",
        "held_usd": "0",
        "available_usd": "100",
    }
    await gateway.ask()
    await gateway.ended()
    spent = 100 * NANO - await gateway.balance()
    told = await shown(gateway, "/v1/credits")
    assert told["total_usage"] * NANO == spent > 0
    assert Decimal(told["balance_usd"]) * NANO == await gateway.balance()


async def test_what_is_held_is_not_available(gateway: InProcess):
    gateway.line.cut = {"release"}
    await gateway.ask(model="sandbox/error")
    told = await shown(gateway, "/v1/credits")
    held = await gateway.held()
    assert Decimal(told["held_usd"]) * NANO == held > 0
    assert Decimal(told["available_usd"]) * NANO == 100 * NANO - held
    await gateway.expire()


async def test_a_key(gateway: InProcess):
    told = await shown(gateway, "/v1/key")
    assert told == {
        "label": f"key {gateway.key[7:11]}",
        "key": f"{gateway.key[:11]}…{gateway.key[-4:]}",
        "limit": None,
        "limit_reset": None,
        "limit_remaining": None,
        "usage": 0,
        "usage_daily": 0,
        "usage_weekly": 0,
        "usage_monthly": 0,
        "byok_usage": 0,
        "is_free_tier": False,
        "expires_at": None,
    }
    assert gateway.key not in str(told)


async def test_a_keys_limit_and_usage(gateway: InProcess):
    await gateway.books.execute("update gateway.api_keys set limit_nano = 5000000000, limit_reset = 'daily'")
    await gateway.ask()
    await gateway.ended()
    spent = 100 * NANO - await gateway.balance()
    told = await shown(gateway, "/v1/key")
    periods = {told[name] * NANO for name in ("usage", "usage_daily", "usage_weekly", "usage_monthly")}
    assert periods == {spent}
    assert (told["limit"], told["limit_reset"]) == (5, "daily")
    assert told["limit_remaining"] * NANO == 5 * NANO - spent


@pytest.mark.parametrize("path", ["/v1/credits", "/v1/key"])
async def test_the_database_is_away(gateway: InProcess, path: str):
    gateway.line.cut = {"authenticate"}
    response = await gateway.client.get(path, headers=gateway.headers())
    assert (response.status_code, response.json()["error"]["code"]) == (503, "database_unavailable")


@pytest.mark.parametrize("path", ["/v1/credits", "/v1/key"])
async def test_something_unexpected(gateway: InProcess, path: str, capsys: pytest.CaptureFixture[str]):
    gateway.line.broken = {"credits", "key_status"}
    response = await gateway.client.get(path, headers=gateway.headers())
    assert (response.status_code, response.json()["error"]["code"]) == (500, "internal_error")
    assert "kanari" not in response.text
    out, err = capsys.readouterr()
    assert "request_failed" in out
    assert "kanari" not in out + err


async def test_a_keys_errors(gateway: InProcess, capsys: pytest.CaptureFixture[str]):
    for path in ("/v1/credits", "/v1/key"):
        error_of(await gateway.client.get(path), 401, "invalid_api_key")
    out, err = capsys.readouterr()
    told = [json.loads(line) for line in out.splitlines()]
    assert [(line["event"], line["level"]) for line in told] == [("request", "INFO")] * 2, "a refusal is no failure"
    assert err == ""


async def test_a_generation_is_shown_with_its_ledger(gateway: InProcess):
    answer = (await gateway.ask()).json()
    await gateway.ended()
    shown = (await gateway.client.get(f"/v1/generation?id={answer['id']}", headers=gateway.headers())).json()["data"]
    assert (shown["id"], shown["model"], shown["provider_name"]) == (answer["id"], "sandbox/chat", "sandbox")
    assert shown["native_tokens_completion"] == answer["usage"]["completion_tokens"]
    assert Decimal(str(shown["total_cost"])) == Decimal(str(answer["usage"]["cost"])) > 0
    ledger = shown["ledger"]
    assert (ledger["hold"]["state"], len(ledger["entries"])) == ("settled", 1)
    assert Decimal(str(ledger["entries"][0]["amount"])) == -Decimal(str(shown["total_cost"]))


async def test_a_generation_that_failed_took_nothing_and_says_why(gateway: InProcess):
    refused = await gateway.ask(model="sandbox/error")
    assert refused.status_code == 502
    await gateway.ended()
    hold_id = await gateway.books.fetchval("select id from gateway.credit_holds")
    shown = (await gateway.client.get(f"/v1/generation?id=gen-{hold_id}", headers=gateway.headers())).json()["data"]
    assert (shown["outcome"], shown["error"], shown["total_cost"]) == ("failed", "provider_error", 0)
    assert shown["ledger"]["entries"] == []


async def test_another_users_generation_is_as_if_it_were_not(gateway: InProcess):
    answer = (await gateway.ask()).json()
    await gateway.ended()
    stranger = await gateway.customer(0)
    told = []
    for given in (answer["id"], "gen-00000000-0000-4000-8000-000000000000", "nonsense"):
        response = await gateway.client.get(f"/v1/generation?id={given}", headers=gateway.headers(key=stranger))
        told.append((response.status_code, response.json()["error"]["code"], response.json()["error"]["param"]))
    assert set(told) == {(404, "not_found", "id")}
