"""/user: profile, preferences, balance, activity, export and the end of an account."""

from __future__ import annotations

import csv
import io
import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from local import seed
from tests.functions.test_errors import error_of

if TYPE_CHECKING:
    import httpx

    from tests.harness.gateway import InProcess

NANO = 10**9


async def send(gateway: InProcess, method: str, path: str, body: Any = None, key: str | None = None) -> httpx.Response:
    return await gateway.client.request(method, path, headers=gateway.headers(key=key), json=body)


async def shown(gateway: InProcess, path: str, key: str | None = None) -> Any:
    response = await send(gateway, "GET", path, key=key)
    assert response.status_code == 200, response.text
    return json.loads(response.content, parse_float=Decimal)


async def grant(
    gateway: InProcess, reference: str, amount: int, kind: str = "promotional", days: int | None = None
) -> None:
    await gateway.books.fetchval(
        "select api.grant($1, $2, $3, 'why', '{\"name\": \"test\"}', $4, now() + make_interval(days => $5))",
        gateway.user_id, reference, amount, kind, days,
    )  # fmt: skip


async def test_the_balance_says_what_it_is_made_of(gateway: InProcess):
    await grant(gateway, "p", 7, "paid")
    await grant(gateway, "t", 5, "trial", days=3)
    await gateway.ask()
    await gateway.ended()
    spent = 100 * NANO + 12 - await gateway.balance()
    assert spent > 5
    told = await shown(gateway, "/user/balance")
    left = [(each["kind"], int(Decimal(each["remaining_usd"]) * NANO)) for each in told["grants"]]
    assert left == [("promotional", 100 * NANO - (spent - 5)), ("paid", 7)]
    assert sum(amount for _, amount in left) == Decimal(told["credits_usd"]) * NANO == await gateway.balance()


async def test_what_requests_hold_is_shown(gateway: InProcess):
    gateway.line.cut = {"release"}
    await gateway.ask(model="sandbox/error")
    told = await shown(gateway, "/user/balance")
    held = await gateway.held()
    assert [Decimal(hold["held_usd"]) * NANO for hold in told["holds"]] == [held]
    assert Decimal(told["available_usd"]) * NANO == 100 * NANO - held
    await gateway.expire()


async def test_the_statement_adds_up(gateway: InProcess):
    for number in range(3):
        await gateway.ask()
        await gateway.ended(number + 1)
    seen: list[dict[str, Any]] = []
    page = await shown(gateway, "/user/credit-transactions?limit=3")
    while page["transactions"]:
        seen += page["transactions"]
        cursor = page["next_cursor"]
        page = (
            await shown(gateway, f"/user/credit-transactions?limit=3&cursor={cursor}")
            if cursor
            else {"transactions": []}
        )
    assert sum(Decimal(each["amount_usd"]) * NANO for each in seen) == await gateway.balance()
    assert [each["transaction_type"] for each in seen] == ["usage", "usage", "usage", "grant"]
    sheet = await gateway.client.get("/user/credit-transactions?format=csv", headers=gateway.headers())
    rows = list(csv.DictReader(io.StringIO(sheet.text)))
    assert [row["reference"] for row in rows] == [each["reference"] for each in seen]
    assert sum(Decimal(row["amount_usd"]) * NANO for row in rows) == await gateway.balance()
    grants = await shown(gateway, "/user/credit-transactions?kind=grant")
    assert [each["transaction_type"] for each in grants["transactions"]] == ["grant"]
    none = await shown(gateway, "/user/credit-transactions?to=2020-01-01T00:00:00")
    assert none["transactions"] == []


async def test_a_profile_is_changed_by_what_was_sent(gateway: InProcess):
    before = (await shown(gateway, "/user/profile"))["profile"]
    changed = (await send(gateway, "PUT", "/user/profile", {"display_name": "Ada L."})).json()["profile"]
    assert changed == before | {"display_name": "Ada L."}
    error_of(await send(gateway, "PUT", "/user/profile", {"username": "operator"}), 409, "conflict")
    for body in ({"username": "A b"}, {"email": "a@b.c"}, {"display_name": "a\u0000b"}, {"display_name": ""}):
        error_of(await send(gateway, "PUT", "/user/profile", body), 422, "unprocessable")
    error_of(await send(gateway, "PUT", "/user/profile", {"username": None}), 400, "invalid_request_error")
    assert (await shown(gateway, "/user/profile"))["profile"] == changed


async def test_preferences(gateway: InProcess):
    path = "/user/notifications/preferences"
    before = (await shown(gateway, path))["preferences"]
    assert before["low_balance_usd"] == "5"
    changed = await send(gateway, "PUT", path, {"low_balance_usd": "2.5", "product_news": True})
    expected = before | {"low_balance_usd": "2.5", "product_news": True}
    assert changed.json()["preferences"] == expected == (await shown(gateway, path))["preferences"]
    await send(gateway, "PUT", path, {"key_events": False})
    assert (await shown(gateway, path))["preferences"] == expected | {"key_events": False}


async def test_activity_is_listed_by_pages_and_summed_by_day(gateway: InProcess):
    for number in range(5):
        await gateway.ask()
        await gateway.ended(number + 1)
    seen: list[str] = []
    cursor = ""
    for count in (2, 2, 1):
        page = await shown(gateway, f"/user/activity/log?limit=2{cursor}")
        assert page["count"] == count
        assert not {"user_id", "upstream_cost_nano"} & page["activities"][0].keys()
        seen += [each["id"] for each in page["activities"]]
        cursor = f"&cursor={page['next_cursor']}".replace("+", "%2B")
    records = await gateway.usage()
    assert seen == [str(row["id"]) for row in reversed(records)]
    stats = await shown(gateway, "/user/activity/stats")
    assert stats["total"]["requests"] == stats["days"][0]["requests"] == 5
    assert stats["total"]["cost"] * NANO == 100 * NANO - await gateway.balance()
    assert (await shown(gateway, "/user/activity/log?model=nobody/none"))["count"] == 0
    for bad in ("x", "2026-01-01_x", "2026-01-01T00:00:00_" + seen[0]):
        error_of(await send(gateway, "GET", f"/user/activity/log?cursor={bad}"), 400, "invalid_request_error")


async def test_changes_are_listed_without_the_operators_name(gateway: InProcess):
    await send(gateway, "PUT", "/user/profile", {"display_name": "Ada"})
    actor = '{"name": "user:2", "user_id": 2, "ip": "192.0.2.9"}'
    audit = "select api.audit($1, 'credits.granted', 'user:1', $2, null, null)"
    await gateway.books.execute(audit, actor, gateway.user_id)
    entries = (await shown(gateway, "/user/api-keys/audit-logs"))["logs"]
    assert [(each["action"], each["actor"]) for each in entries[:2]] == [
        ("credits.granted", "operator"), ("profile.changed", "you"),
    ]  # fmt: skip
    assert entries[0]["ip"] is None
    assert entries[1]["ip"] == "127.0.0.1"
    assert [
        each["action"] for each in (await shown(gateway, "/user/api-keys/audit-logs?action=profile.changed"))["logs"]
    ] == ["profile.changed"]


async def test_nothing_of_others_is_shown(gateway: InProcess):
    await gateway.ask()
    await gateway.ended()
    stranger = await seed.add_user(gateway.books, "stranger")
    key = (await seed.add_key(gateway.books, stranger)).plaintext
    assert (await shown(gateway, "/user/activity/log", key))["activities"] == []
    assert (await shown(gateway, "/user/credit-transactions", key))["transactions"] == []
    assert (await shown(gateway, "/user/balance", key))["grants"] == []
    exported = await shown(gateway, "/user/export", key)
    assert "developer" not in json.dumps(exported, default=str)


async def test_an_export_is_whole_and_holds_no_secret(gateway: InProcess):
    await gateway.ask()
    await gateway.ended()
    told = await shown(gateway, "/user/export")
    assert told["is_whole"]
    assert [len(told[name]) for name in ("api_keys", "requests", "credit_transactions")] == [1, 1, 2]
    assert "key_hash" not in str(told)
    assert gateway.key[7:] not in str(told)


@pytest.mark.parametrize("confirmation", ["", "operator", "DEVELOPER"])
async def test_an_account_is_not_deleted_by_a_slip(gateway: InProcess, confirmation: str):
    before = await gateway.tables()
    response = await send(gateway, "DELETE", "/user", {"confirmation": confirmation})
    assert response.status_code in {400, 422}
    assert await gateway.tables() == before


async def test_a_deleted_account_leaves_its_books_and_nothing_personal(gateway: InProcess):
    async with gateway.reading(model="sandbox/slow") as chunks:
        await anext(chunks)
        deleted = await send(gateway, "DELETE", "/user", {"confirmation": "developer"})
        assert deleted.status_code == 200
        error_of(await gateway.ask(), 401, "invalid_api_key")
        async for _ in chunks:
            pass
    assert await gateway.ended() == ["settled"]
    (user,) = await gateway.rows("select * from gateway.users where id = $1", gateway.user_id)
    assert (user["username"], user["email"], user["status"]) == (f"deleted-{gateway.user_id}", None, "deleted")
    kept = await gateway.tables()
    assert not any("developer@" in row for rows in kept.values() for row in rows)
    assert len(await gateway.usage()) == 1


async def test_the_last_admin_stays(gateway: InProcess):
    error_of(await send(gateway, "DELETE", "/user", {"confirmation": "operator"}, gateway.admin_key), 409, "conflict")
