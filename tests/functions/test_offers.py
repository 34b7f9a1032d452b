"""Plans and trials over HTTP: their limits, what they give, and that a person has one trial."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gateway import settings
from gateway.money import NANO
from tests.functions.test_errors import error_of
from tests.functions.test_payments import START, bought, delivered

if TYPE_CHECKING:
    import httpx

    from local.stripe import Stripe
    from tests.harness.gateway import InProcess
    from tests.harness.issuer import Issuer


async def ask(gateway: InProcess, method: str, path: str, body: Any = None, key: str | None = None) -> httpx.Response:
    return await gateway.client.request(method, path, headers=gateway.headers(key=key), json=body)


async def told(gateway: InProcess, method: str, path: str, body: Any = None, key: str | None = None) -> dict[str, Any]:
    response = await ask(gateway, method, path, body, key)
    assert response.is_success, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def operator(gateway: InProcess, method: str, path: str, body: Any = None) -> dict[str, Any]:
    return await told(gateway, method, path, body, gateway.admin_key)


# ------------------------------------------------------------------------------------------------ plans


async def a_plan(gateway: InProcess, **parts: Any) -> int:
    made = await operator(gateway, "POST", "/admin/plans", {"name": "pro", **parts})
    plan_id: int = made["plan"]["id"]
    return plan_id


async def test_plans_are_listed_and_one_is_always_there(gateway: InProcess):
    plan_id = await a_plan(gateway, monthly_price_cents=2000, monthly_credits=25, features=["a", "b"])
    listed = (await gateway.client.get("/plans")).json()["plans"]
    assert [(plan["name"], plan["monthly_price"]) for plan in listed] == [("free", 0), ("pro", 20)]
    assert (await gateway.client.get(f"/plans/{plan_id}")).json()["plan"]["monthly_credits_usd"] == "25"
    error_of(await gateway.client.get("/plans/999999"), 404, "not_found")
    assert (await told(gateway, "GET", "/user/plan"))["plan"]["plan_name"] == "free"
    assigned = {"user_id": gateway.user_id, "plan_id": plan_id, "duration_months": 2}
    for _ in range(2):
        assert (await operator(gateway, "POST", "/plans/assign", assigned))["success"]
    own = (await told(gateway, "GET", "/user/plan"))["plan"]
    assert (own["plan_name"], own["status"]) == ("pro", "active")
    assert await gateway.books.fetchval("select count(*) from gateway.user_plans") == 1
    error_of(await ask(gateway, "POST", "/admin/plans", {"name": "pro"}, gateway.admin_key), 409, "conflict")
    changed = await operator(gateway, "PATCH", f"/admin/plans/{plan_id}", {"is_active": False})
    assert changed["plan"]["features"] == ["a", "b"]
    assert len((await gateway.client.get("/plans")).json()["plans"]) == 1


@pytest.mark.parametrize(
    ("limit", "told_limit"),
    [
        ({"daily_request_limit": 2}, "daily_requests"),
        ({"monthly_request_limit": 2}, "monthly_requests"),
        ({"daily_token_limit": 30}, "daily_tokens"),
        ({"monthly_token_limit": 30}, "monthly_tokens"),
    ],
    ids=str,
)
async def test_a_day_and_a_month_have_their_limits(gateway: InProcess, limit: dict[str, int], told_limit: str):
    plan_id = await a_plan(gateway, **limit)
    await operator(gateway, "POST", "/plans/assign", {"user_id": gateway.user_id, "plan_id": plan_id})
    for number in range(2):
        assert (await gateway.ask()).status_code == 200
        await gateway.ended(number + 1)
    refused = await gateway.ask()
    error = error_of(refused, 429, "plan_limit_exceeded")
    assert error["metadata"]["limit"] == told_limit
    assert refused.headers["x-ratelimit-scope"] == "plan"
    assert 0 < int(refused.headers["retry-after"]) <= 31 * 24 * 3600
    used = (await told(gateway, "GET", "/user/plan"))["plan"]["usage"]
    assert (used["requests_today"], used["requests_this_month"]) == (2, 2)
    assert (
        used["tokens_today"]
        == used["tokens_this_month"]
        == sum(row["prompt_tokens"] + row["completion_tokens"] for row in await gateway.usage())
    )
    await gateway.books.execute("update gateway.rate_limit_buckets set day = day - 1, month = month - 31")
    assert (await gateway.ask()).status_code == 200


async def test_a_plan_is_subscribed_to_changed_and_canceled(gateway: InProcess, stripe: Stripe):
    plan_id = await a_plan(gateway, monthly_price_cents=2000, monthly_credits=25)
    chosen = await told(gateway, "POST", "/user/plan", {"plan_id": plan_id})
    assert chosen["status"] == "pending_payment"
    stripe.pay(chosen["checkout_url"].rpartition("/")[2])
    stripe.events *= 2
    await delivered(stripe)
    assert (await told(gateway, "GET", "/user/plan"))["plan"]["plan_name"] == "pro"
    assert await gateway.balance() == START + 25 * NANO
    grants = (await told(gateway, "GET", "/user/balance"))["grants"]
    assert grants[-1]["kind"] == "subscription"
    assert grants[-1]["expires_at"] is not None
    owner = stripe._of("subscription")[0]
    stripe.renew(owner["id"])
    await delivered(stripe)
    assert await gateway.balance() == START + 50 * NANO
    dearer = (await operator(gateway, "POST", "/admin/plans", {"name": "max", "monthly_price_cents": 9000}))["plan"][
        "id"
    ]
    assert (await told(gateway, "POST", "/user/plan", {"plan_id": dearer}))["status"] == "converted"
    assert (await told(gateway, "GET", "/user/plan"))["plan"]["plan_name"] == "max"
    assert (await told(gateway, "DELETE", "/user/plan"))["cancel_at_period_end"]
    assert (await told(gateway, "GET", "/user/plan"))["plan"]["plan_name"] == "max"
    stripe.end(owner["id"])
    await delivered(stripe)
    assert (await told(gateway, "GET", "/user/plan"))["plan"]["plan_name"] == "free"
    error_of(await ask(gateway, "DELETE", "/user/plan"), 404, "not_found")


async def test_only_a_plan_that_costs_something_is_subscribed_to(gateway: InProcess, stripe: Stripe):
    free = await gateway.books.fetchval("select id from gateway.plans where is_default")
    error_of(await ask(gateway, "POST", "/user/plan", {"plan_id": free}), 400, "invalid_request_error")
    error_of(await ask(gateway, "POST", "/user/plan", {"plan_id": 999_999}), 404, "not_found")
    assert stripe.objects == {}


# ------------------------------------------------------------------------------------------------ trials


async def trials_on(gateway: InProcess) -> None:
    await operator(gateway, "PUT", "/admin/trial-terms", {"credits": "1.5", "days": 10})


async def a_newcomer(gateway: InProcess, issuer: Issuer, email: str = "new@example.com") -> dict[str, Any]:
    signed_in: dict[str, Any] = (await issuer.sign_in(gateway, email)).json()
    gateway.user_id, gateway.key = signed_in["user_id"], signed_in["api_key"]
    return signed_in


async def test_a_trial_is_credit_with_an_end_and_limits(gateway: InProcess, issuer: Issuer):
    await a_newcomer(gateway, issuer)
    error_of(await ask(gateway, "POST", "/trials/start", {}), 403, "trial_not_available")
    await trials_on(gateway)
    started = await told(gateway, "POST", "/trials/start", {"trial_type": "standard"})
    assert (started["credits"], started["max_requests"]) == (1.5, 1000)
    assert await gateway.balance() == 15 * NANO // 10
    assert (await gateway.ask()).status_code == 200
    await gateway.ended()
    status = (await told(gateway, "GET", "/trials/status"))["trial"]
    assert (status["is_active"], status["remaining_requests"]) == (True, 999)
    assert Decimal(str(status["remaining_credits"])) * NANO == await gateway.balance()
    before = await gateway.tables()
    counters = await told(gateway, "POST", "/trials/track-usage", {"tokens_used": 10**9, "credits_used": 5})
    assert counters["remaining_requests"] == 999
    assert await gateway.tables() == before
    error_of(await ask(gateway, "POST", "/trials/start", {}), 409, "trial_already_used")


async def test_a_trials_limits_are_counted_over_all_of_it(gateway: InProcess, issuer: Issuer):
    await a_newcomer(gateway, issuer)
    await trials_on(gateway)
    await told(gateway, "POST", "/trials/start", {})
    await gateway.books.execute("update gateway.plans set monthly_request_limit = 1 where name = 'trial'")
    assert (await gateway.ask()).status_code == 200
    refused = await gateway.ask()
    error_of(refused, 429, "plan_limit_exceeded")
    assert 9 * 24 * 3600 < int(refused.headers["retry-after"]) <= 10 * 24 * 3600


async def test_a_person_has_one_trial_whatever_the_account(gateway: InProcess, issuer: Issuer):
    await a_newcomer(gateway, issuer)
    await trials_on(gateway)
    answers = await asyncio.gather(*(ask(gateway, "POST", "/trials/start", {}) for _ in range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    username = (await told(gateway, "GET", "/user/profile"))["profile"]["username"]
    await told(gateway, "DELETE", "/user", {"confirmation": username})
    await a_newcomer(gateway, issuer)
    error_of(await ask(gateway, "POST", "/trials/start", {}), 409, "trial_already_used")
    assert await gateway.books.fetchval("select count(*) from gateway.trials") == 1


SPELLINGS = ("al.ice@gmail.com", "alice@gmail.com", "Alice+1@gmail.com", "alice+2@googlemail.com")


async def test_an_address_has_one_trial_however_it_is_spelt(gateway: InProcess, issuer: Issuer):
    await trials_on(gateway)
    codes = []
    for email in (*SPELLINGS, "ada@example.com", "ada+x@example.com", "a.da@example.com"):
        await a_newcomer(gateway, issuer, email)
        codes.append((await ask(gateway, "POST", "/trials/start", {})).status_code)
    assert codes == [201, 409, 409, 409, 201, 409, 201]


async def a_wallet(gateway: InProcess, issuer: Issuer) -> None:
    """The newcomer signed in with a wallet, and has no address."""
    wallet = [{"type": "wallet", "address": "0xabc", "latest_verified_at": 1}]
    token = issuer.access_token("did:privy:wallet", linked_accounts=wallet)
    signed_in = (await gateway.client.post("/auth/privy", json={"token": token})).json()
    gateway.user_id, gateway.key = signed_in["user_id"], signed_in["api_key"]


async def test_a_wallet_alone_gets_no_trial(gateway: InProcess, issuer: Issuer):
    await trials_on(gateway)
    await a_wallet(gateway, issuer)
    error_of(await ask(gateway, "POST", "/trials/start", {}), 403, "address_needed")


async def test_addresses_to_throw_away_get_no_trial(
    gateway: InProcess, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
):
    await a_newcomer(gateway, issuer, "x@Mailinator.com")
    await trials_on(gateway)
    changed = msgspec.structs.replace(settings.settings, trial_blocked_domains=("mailinator.com",))
    monkeypatch.setattr("gateway.trials.settings", changed)
    error_of(await ask(gateway, "POST", "/trials/start", {}), 403, "trial_not_available")


async def test_a_trial_ends_by_the_job_and_says_so(gateway: InProcess, issuer: Issuer):
    await a_newcomer(gateway, issuer)
    await trials_on(gateway)
    await told(gateway, "POST", "/trials/start", {})
    move = "update gateway.{} set {} = {} - interval '8 days'"
    for table, column in (("trials", "ends_at"), ("credit_grants", "expires_at"), ("user_plans", "ends_at")):
        await gateway.books.execute(move.format(table, column, column))
    run = "select api.end_trials()::text"
    assert msgspec.json.decode(await gateway.books.fetchval(run)) == {"told": 1, "ended": 0}
    for table, column in (("trials", "ends_at"), ("credit_grants", "expires_at"), ("user_plans", "ends_at")):
        await gateway.books.execute(move.format(table, column, column))
    assert msgspec.json.decode(await gateway.books.fetchval(run)) == {"told": 0, "ended": 1}
    assert msgspec.json.decode(await gateway.books.fetchval(run)) == {"told": 0, "ended": 0}
    await gateway.books.fetchval("select api.expire_grants()")
    assert await gateway.balance() == 0
    refused = await gateway.ask()
    error_of(refused, 403, "trial_expired")
    assert refused.headers["x-trial-expired"] == "true"
    assert refused.headers["x-trial-end-date"].startswith("20")
    events = await gateway.rows("select event from gateway.outbox where event like 'trial.%' order by id")
    assert [row["event"] for row in events] == ["trial.started", "trial.ending", "trial.ended"]


async def test_who_pays_is_on_trial_no_longer(gateway: InProcess, issuer: Issuer, stripe: Stripe):
    await a_newcomer(gateway, issuer)
    await trials_on(gateway)
    await told(gateway, "POST", "/trials/start", {})
    await bought(gateway, stripe)
    await delivered(stripe)
    assert (await told(gateway, "GET", "/user/plan"))["plan"]["plan_name"] == "free"
    assert await gateway.balance() == 115 * NANO // 10
