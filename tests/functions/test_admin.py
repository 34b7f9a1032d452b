"""/admin over HTTP: users, credits, limits and roles, each change audited with what was before and after."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from gateway.administration import MOST_CREDIT_A_DAY_NANO, MOST_CREDIT_NANO
from gateway.money import NANO
from gateway.scopes import CUSTOMER, Scope
from local import seed
from tests.functions.test_errors import error_of

if TYPE_CHECKING:
    import httpx

    from tests.harness.gateway import InProcess

WHY = "for a test"


async def ask(
    gateway: InProcess, method: str, path: str, body: Any = None, *, key: str | None = None, **headers: str
) -> httpx.Response:
    """A request with the operator's key, unless with another."""
    sent = gateway.headers({name.replace("_", "-"): value for name, value in headers.items()}, key or gateway.admin_key)
    return await gateway.client.request(method, f"/admin/{path}", headers=sent, json=body)


async def told(gateway: InProcess, method: str, path: str, body: Any = None, **options: Any) -> dict[str, Any]:
    response = await ask(gateway, method, path, body, **options)
    assert response.is_success, response.text
    answer: dict[str, Any] = response.json()
    assert answer["success"]
    return answer


async def a_helper(gateway: InProcess, *scopes: Scope) -> tuple[int, str]:
    """A user of a role with these scopes, and a key that has all there are."""
    await told(gateway, "PUT", "roles/permissions/helper", {"permissions": list(scopes)})
    user_id = await seed.add_user(gateway.books, "helper", "helper")
    return user_id, (await seed.add_key(gateway.books, user_id)).plaintext


async def last_entry(gateway: InProcess) -> dict[str, Any]:
    entry: dict[str, Any] = (await told(gateway, "GET", "audit-logs?limit=1"))["logs"][0]
    return entry


# ------------------------------------------------------------------------------------------------ users


async def test_an_account_is_made_with_a_key_that_works_and_its_credit(gateway: InProcess):
    body = {"username": "ada", "email": "ada@example.com", "initial_credits": 5, "reason": WHY}
    response = await ask(gateway, "POST", "create", body)
    assert response.status_code == 201
    made = response.json()
    assert (made["username"], made["credits_usd"], made["role"]) == ("ada", "5", "user")
    assert (await gateway.ask(key=made["api_key"])).status_code == 200
    shown = (await told(gateway, "GET", f"users/{made['user_id']}"))["user"]
    assert shown["email"] == "ada@example.com"
    assert [key["scope_permissions"] for key in shown["api_keys"]] == [list(CUSTOMER)]
    assert made["api_key"] not in str(await gateway.tables())
    entry = (await told(gateway, "GET", f"audit-logs?action=user.created&user_id={made['user_id']}"))["logs"][0]
    assert entry["after"] == {"username": "ada", "role": "user", "reason": WHY}


@pytest.mark.parametrize(
    "taken",
    [{"username": "developer", "email": "x@example.com"}, {"username": "x-y", "email": "Developer@Example.com"}],
)
async def test_a_taken_name_or_address_is_a_conflict(gateway: InProcess, taken: dict[str, str]):
    before = await gateway.tables()
    error_of(await ask(gateway, "POST", "create", taken), 409, "conflict")
    assert await gateway.tables() == before


async def test_users_are_found_by_pages_and_filters(gateway: InProcess):
    for number in range(4):
        await seed.add_user(gateway.books, f"user-{number}")
    seen: list[str] = []
    cursor = ""
    while True:
        page = await told(gateway, "GET", f"users?limit=4{cursor}")
        seen += [user["username"] for user in page["users"]]
        if not page["next_cursor"]:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == ["user-3", "user-2", "user-1", "user-0", "operator", "developer"]
    for query, found in {
        "role=admin": ["operator"],
        "email=USER-2@example.com": ["user-2"],
        "username=user-1": ["user-1"],
        "status=suspended": [],
    }.items():
        assert [user["username"] for user in (await told(gateway, "GET", f"users?{query}"))["users"]] == found, query


async def test_a_suspended_user_is_served_nothing_until_restored(gateway: InProcess):
    path = f"users/{gateway.user_id}"
    assert (await told(gateway, "POST", f"{path}/suspend", {"reason": WHY}))["user"]["status"] == "suspended"
    error_of(await gateway.ask(), 401, "invalid_api_key")
    entry = await last_entry(gateway)
    assert (entry["action"], entry["before"]) == ("user.suspended", {"status": "active"})
    assert entry["after"] == {"status": "suspended", "reason": WHY}
    assert entry["ip"] == "127.0.0.1"
    before = await gateway.tables()
    await told(gateway, "POST", f"{path}/suspend", {"reason": "again"})
    assert await gateway.tables() == before
    await told(gateway, "POST", f"{path}/restore", {"reason": WHY})
    assert (await gateway.ask()).status_code == 200


async def test_nobody_suspends_who_may_do_more_or_is_the_last_admin(gateway: InProcess):
    operator = await gateway.books.fetchval("select id from gateway.users where role = 'admin'")
    _, helper = await a_helper(gateway, *CUSTOMER, Scope.ADMIN_USERS)
    refused = await ask(gateway, "POST", f"users/{operator}/suspend", {"reason": WHY}, key=helper)
    error_of(refused, 403, "insufficient_scope")
    before = await gateway.tables()
    error_of(await ask(gateway, "POST", f"users/{operator}/suspend", {"reason": WHY}), 409, "conflict")
    error_of(await ask(gateway, "POST", "users/999999/suspend", {"reason": WHY}), 404, "not_found")
    assert await gateway.tables() == before


# ------------------------------------------------------------------------------------------------ credits


async def credit(gateway: InProcess, key: str, **body: Any) -> httpx.Response:
    whole = {"user_id": gateway.user_id, "credits": 1, "reason": WHY, **body}
    return await ask(gateway, "POST", "add_credits", whole, idempotency_key=key)


async def test_credits_are_given_once_for_an_idempotency_key(gateway: InProcess):
    before = await gateway.balance()
    first, *others = await asyncio.gather(*(credit(gateway, "one", credits="2.5") for _ in range(5)))
    assert first.status_code == 200
    assert {response.text.partition('"timestamp"')[0] for response in others} == {
        first.text.partition('"timestamp"')[0]
    }
    assert await gateway.balance() == before + 25 * NANO // 10
    assert Decimal(first.json()["new_balance_usd"]) * NANO == await gateway.balance()
    shown = await gateway.client.get("/user/balance", headers=gateway.headers())
    assert [grant["kind"] for grant in shown.json()["grants"]] == ["promotional", "promotional"]
    entry = await last_entry(gateway)
    assert (entry["action"], entry["resource"]) == ("credits.granted", f"user:{gateway.user_id}")
    assert entry["after"]["credits_nano"] - entry["before"]["credits_nano"] == 25 * NANO // 10


@pytest.mark.parametrize(
    "other", [{"credits": 2}, {"reason": "another"}, {"kind": "goodwill"}, {"expires_at": "2100-01-01T00:00:00Z"}]
)
async def test_an_idempotency_key_stands_for_one_credit(gateway: InProcess, other: dict[str, Any]):
    assert (await credit(gateway, "one")).status_code == 200
    before = await gateway.tables()
    error_of(await credit(gateway, "one", **other), 422, "idempotency_key_reused")
    assert await gateway.tables() == before


async def test_without_an_idempotency_key_nothing_is_given(gateway: InProcess):
    before = await gateway.tables()
    body = {"user_id": gateway.user_id, "credits": 1, "reason": WHY}
    error_of(await ask(gateway, "POST", "add_credits", body), 400, "invalid_request_error")
    assert await gateway.tables() == before


async def test_the_owner_of_a_key_can_be_credited_by_it(gateway: InProcess):
    body = {"api_key": gateway.key, "credits": 1, "reason": WHY, "kind": "goodwill"}
    answer = await told(gateway, "POST", "add_credits", body, idempotency_key="a")
    assert answer["user_id"] == gateway.user_id
    assert gateway.key not in str(await gateway.tables())


async def test_a_correction_takes_what_is_free_and_no_more(gateway: InProcess):
    before = await gateway.balance()
    assert (await credit(gateway, "a", credits=-40, kind="correction")).status_code == 200
    again = await credit(gateway, "a", credits=-40, kind="correction")
    assert again.status_code == 200
    assert await gateway.balance() == before - 40 * NANO
    tables = await gateway.tables()
    error_of(await credit(gateway, "b", credits=-61, kind="correction"), 409, "conflict")
    assert await gateway.tables() == tables
    shown = await gateway.client.get("/user/balance", headers=gateway.headers())
    assert [Decimal(grant["remaining_usd"]) for grant in shown.json()["grants"]] == [60]


@pytest.mark.parametrize(
    "wrong",
    [
        {"credits": 0},
        {"credits": -1},
        {"credits": "1e3"},
        {"credits": 0.0000000001},
        {"credits": MOST_CREDIT_NANO // NANO + 1},
        {"reason": ""},
        {"kind": "gift"},
        {"api_key": "gw_dev_x"},
        {"user_id": None},
        {"actor": "me"},
    ],
    ids=str,
)
async def test_what_is_no_credit_changes_nothing(gateway: InProcess, wrong: dict[str, Any]):
    before = await gateway.tables()
    error_of(await credit(gateway, "a", **wrong), 422, "unprocessable")
    assert await gateway.tables() == before


async def test_an_operator_moves_so_much_a_day(gateway: InProcess):
    whole = MOST_CREDIT_A_DAY_NANO // MOST_CREDIT_NANO
    for number in range(whole):
        assert (await credit(gateway, str(number), credits=MOST_CREDIT_NANO // NANO)).status_code == 200
    before = await gateway.tables()
    error_of(await credit(gateway, "more", credits="0.01"), 409, "conflict")
    error_of(await credit(gateway, "less", credits="-0.01", kind="correction"), 409, "conflict")
    assert await gateway.tables() == before


async def test_credit_of_the_past_or_to_nobody_is_refused(gateway: InProcess):
    before = await gateway.tables()
    error_of(await credit(gateway, "a", expires_at="2020-01-01T00:00:00Z"), 400, "invalid_request_error")
    error_of(await credit(gateway, "a", user_id=999_999), 404, "not_found")
    assert await gateway.tables() == before


# ------------------------------------------------------------------------------------------------ limits


async def test_an_operator_limits_a_user_and_a_key(gateway: InProcess):
    limits = {"requests_per_minute": 2}
    answer = await told(gateway, "POST", "rate-limits", {"user_id": gateway.user_id, "rate_limits": limits})
    assert answer["rate_limits"]["user"]["requests_per_minute"] == 2
    assert [(await gateway.ask()).status_code for _ in range(3)] == [200, 200, 429]
    await told(gateway, "POST", "limit", {"user_id": gateway.user_id, "rate_limits": {}})
    assert (await gateway.ask()).status_code == 200
    key_id = await gateway.books.fetchval("select id from gateway.api_keys where public_id = $1", gateway.key[7:19])
    headers = gateway.headers(key=await gateway.a_key())
    await told(gateway, "POST", "rate-limits", {"api_key": gateway.key, "rate_limits": {"concurrency": 3}})
    raised = await gateway.client.put(f"/user/rate-limits/{key_id}", headers=headers, json={"concurrency": 4})
    error_of(raised, 400, "invalid_request_error")
    entry = await last_entry(gateway)
    assert (entry["action"], entry["resource"]) == ("limits.set", f"key:{key_id}")


async def test_limits_end_when_their_time_is_over(gateway: InProcess):
    body = {"user_id": gateway.user_id, "rate_limits": {"concurrency": 1}, "expires_at": "2100-01-01T00:00:00Z"}
    await told(gateway, "POST", "rate-limits", body)
    await gateway.books.execute("update gateway.rate_limit_configs set expires_at = now()")
    told_limits = (await told(gateway, "GET", f"users/{gateway.user_id}"))["user"]["rate_limits"]
    assert told_limits["user"]["concurrency"] != 1
    error_of(
        await ask(gateway, "POST", "rate-limits", body | {"expires_at": "2020-01-01"}), 400, "invalid_request_error"
    )
    error_of(await ask(gateway, "POST", "rate-limits", body | {"user_id": 999_999}), 404, "not_found")
    error_of(await ask(gateway, "POST", "rate-limits", body | {"key_id": 1}), 422, "unprocessable")
