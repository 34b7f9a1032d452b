"""Coupons and referrals over HTTP: what is given, to whom, once, and back with the payment that it hangs on."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gateway.money import NANO
from local import seed
from tests.functions.test_errors import error_of
from tests.functions.test_offers import a_newcomer, a_wallet, ask, operator, told
from tests.functions.test_payments import CHECKOUT, START, bought, delivered, post
from tests.functions.test_refunds import refund

if TYPE_CHECKING:
    import httpx

    from local.stripe import Stripe
    from tests.harness.gateway import InProcess
    from tests.harness.issuer import Issuer


# ------------------------------------------------------------------------------------------------ coupons


async def a_coupon(gateway: InProcess, **parts: Any) -> dict[str, Any]:
    given = {"code": "Summer-26", **({"credits": 3} if "percent" not in parts else {}), **parts}
    coupon: dict[str, Any] = (await operator(gateway, "POST", "/admin/coupons", given))["coupon"]
    return coupon


async def redeem(gateway: InProcess, code: str = "summer-26", key: str | None = None) -> httpx.Response:
    return await ask(gateway, "POST", "/coupons/redeem", {"code": code}, key)


async def test_a_coupon_gives_its_credit_once(gateway: InProcess):
    coupon = await a_coupon(gateway, credit_days=30)
    answers = await asyncio.gather(*(redeem(gateway) for _ in range(6)))
    assert sorted(answer.status_code for answer in answers) == [200] + [409] * 5
    assert await gateway.balance() == START + 3 * NANO
    shown = (await operator(gateway, "GET", f"/admin/coupons/{coupon['id']}/analytics"))["coupon"]
    assert (shown["uses"], shown["redemptions"], shown["given_usd"]) == (1, 1, "3")
    history = (await told(gateway, "GET", "/coupons/history"))["redemptions"]
    assert [(each["code"], each["credit_usd"]) for each in history] == [("SUMMER-26", "3")]
    assert (await operator(gateway, "GET", "/admin/coupons/stats/overview"))["kinds"][0]["given_usd"] == "3"


async def test_the_last_use_is_one_of_fifty_at_once(gateway: InProcess):
    await a_coupon(gateway, max_uses=1)
    keys = []
    for number in range(50):
        user_id = await seed.add_user(gateway.books, f"user-{number}")
        keys.append((await seed.add_key(gateway.books, user_id)).plaintext)
    answers = await asyncio.gather(*(redeem(gateway, key=key) for key in keys))
    assert sorted({answer.status_code for answer in answers}) == [200, 400]
    assert sum(answer.status_code == 200 for answer in answers) == 1
    error_of(next(answer for answer in answers if answer.status_code == 400), 400, "coupon_max_uses_reached")


async def test_a_person_redeems_a_coupon_once_whatever_the_account(gateway: InProcess, issuer: Issuer):
    coupon = await a_coupon(gateway)
    codes = []
    for email in ("al.ice@gmail.com", "al.ice@gmail.com", "alice+1@googlemail.com", "ada@example.com"):
        name = (await a_newcomer(gateway, issuer, email))["username"]
        codes.append((await redeem(gateway)).status_code)
        await told(gateway, "DELETE", "/user", {"confirmation": name})
    assert codes == [200, 409, 409, 200]
    kept = await gateway.rows("select uses from gateway.coupons where id = $1", coupon["id"])
    assert kept == [{"uses": 2}]


async def test_a_wallet_alone_redeems_its_own_coupons_only(gateway: InProcess, issuer: Issuer):
    await a_wallet(gateway, issuer)
    await a_coupon(gateway)
    await a_coupon(gateway, code="own-one", user_id=gateway.user_id)
    error_of(await redeem(gateway), 403, "address_needed")
    assert (await redeem(gateway, "own-one")).status_code == 200


@pytest.mark.parametrize(
    ("parts", "status", "code"),
    [
        ({"starts_at": "2100-01-01"}, 400, "coupon_not_yet_valid"),
        ({"ends_at": "2020-01-01"}, 400, "coupon_expired"),
        ({"user_id": 2}, 404, "coupon_not_found"),
    ],
    ids=str,
)
async def test_a_coupon_that_does_not_fit_gives_nothing(
    gateway: InProcess, parts: dict[str, Any], status: int, code: str
):
    await a_coupon(gateway, **parts)
    before = await gateway.tables()
    error_of(await redeem(gateway), status, code)
    error_of(await redeem(gateway, "nothing"), 404, "coupon_not_found")
    assert await gateway.tables() == before


async def test_a_coupon_that_was_ended_is_no_more_and_its_gift_is_fixed(gateway: InProcess):
    coupon = await a_coupon(gateway)
    path = f"/admin/coupons/{coupon['id']}"
    assert not (await operator(gateway, "DELETE", path))["coupon"]["is_active"]
    error_of(await redeem(gateway), 400, "coupon_inactive")
    error_of(await ask(gateway, "PATCH", path, {"credits": 1000}, gateway.admin_key), 422, "unprocessable")
    assert (await operator(gateway, "PATCH", path, {"is_active": True, "max_uses": 5}))["coupon"]["max_uses"] == 5
    assert (await redeem(gateway)).status_code == 200
    error_of(
        await ask(gateway, "POST", "/admin/coupons", {"code": "SUMMER-26", "credits": 1}, gateway.admin_key),
        409,
        "conflict",
    )
    log = await operator(gateway, "GET", "/admin/audit-logs?resource=coupon:SUMMER-26")
    assert [entry["action"] for entry in log["logs"]] == [
        "coupon.redeemed",
        "coupon.saved",
        "coupon.saved",
        "coupon.saved",
    ]


async def test_a_bonus_comes_with_the_next_top_up_and_goes_with_it(gateway: InProcess, stripe: Stripe):
    await a_coupon(gateway, percent=50, most_credits=4)
    await a_coupon(gateway, code="OTHER", percent=10)
    assert (await redeem(gateway)).json()["credits"] is None
    error_of(await redeem(gateway, "OTHER"), 409, "coupon_bonus_waiting")
    opened = await bought(gateway, stripe)
    stripe.events *= 2
    await delivered(stripe)
    assert await gateway.balance() == START + 14 * NANO
    assert (await refund(gateway, opened["intent"], amount=500)).status_code == 200
    assert await gateway.balance() == START + 7 * NANO
    await bought(gateway, stripe)
    await delivered(stripe)
    assert await gateway.balance() == START + 17 * NANO


async def test_ones_own_coupons_are_told(gateway: InProcess):
    await a_coupon(gateway, user_id=gateway.user_id)
    await a_coupon(gateway, code="EVERYBODY")
    assert [each["code"] for each in (await told(gateway, "GET", "/coupons/available"))["coupons"]] == ["SUMMER-26"]
    await redeem(gateway)
    assert (await told(gateway, "GET", "/coupons/available"))["coupons"] == []


# ------------------------------------------------------------------------------------------------ referrals


async def referred(gateway: InProcess, issuer: Issuer) -> tuple[int, str, str]:
    """Who referred, his key and his code; the gateway's customer is who came by it."""
    await operator(gateway, "PUT", "/admin/referral-terms", {"referrer_credits": 5, "referee_credits": 2})
    referrer, key = gateway.user_id, gateway.key
    code = (await told(gateway, "GET", "/referral/code"))["referral_code"]
    signed_in = (await issuer.sign_in(gateway, "friend@example.com", referral_code=code.lower())).json()
    gateway.user_id, gateway.key = signed_in["user_id"], signed_in["api_key"]
    return referrer, key, code


async def balance_of(gateway: InProcess, user_id: int) -> int:
    return int(await gateway.books.fetchval("select credits_nano from gateway.users where id = $1", user_id))


async def test_both_are_rewarded_for_the_first_real_payment(gateway: InProcess, issuer: Issuer, stripe: Stripe):
    referrer, key, _ = await referred(gateway, issuer)
    small = (await post(gateway, CHECKOUT, {"amount": 9})).json()
    stripe.pay(small["session_id"], "the-friends-card")
    await delivered(stripe)
    assert await balance_of(gateway, referrer) == START
    for _ in range(2):
        await bought(gateway, stripe, 10, "the-friends-card")
        stripe.events *= 2
        await delivered(stripe)
    assert await balance_of(gateway, referrer) == START + 5 * NANO
    assert await gateway.balance() == (9 + 10 + 10 + 2) * NANO
    stats = await told(gateway, "GET", "/referral/stats", key=key)
    assert (stats["total_referrals"], stats["rewarded_referrals"], stats["total_earned_usd"]) == (1, 1, "5")
    assert "friend@example.com" not in str(stats)


async def test_a_reward_goes_back_with_its_payment(gateway: InProcess, issuer: Issuer, stripe: Stripe):
    referrer, _, _ = await referred(gateway, issuer)
    opened = await bought(gateway, stripe, 10, "the-friends-card")
    await delivered(stripe)
    assert (await refund(gateway, opened["intent"], amount=100)).status_code == 200
    assert await balance_of(gateway, referrer) == START
    assert await gateway.balance() == 9 * NANO


@pytest.mark.parametrize("how", ["his own card", "no terms", "ten already"])
async def test_nobody_is_rewarded_for_himself_or_too_often(
    gateway: InProcess, issuer: Issuer, stripe: Stripe, how: str
):
    if how == "his own card":
        await bought(gateway, stripe, 10, "one-card")
        await delivered(stripe)
    referrer, _, _ = await referred(gateway, issuer)
    if how == "no terms":
        await operator(gateway, "PUT", "/admin/referral-terms", {"referrer_credits": 0, "referee_credits": 0})
    if how == "ten already":
        await gateway.books.execute("update gateway.referral_codes set rewards = 10")
    before = await balance_of(gateway, referrer)
    await bought(gateway, stripe, 10, "one-card")
    await delivered(stripe)
    assert (await balance_of(gateway, referrer), await gateway.balance()) == (before, 10 * NANO)


async def test_codes_are_told_from_nonsense_and_ones_own(gateway: InProcess, issuer: Issuer):
    _, key, code = await referred(gateway, issuer)
    for given, expected, asker in ((code, True, gateway.key), (code, False, key), ("NONSENSE", False, gateway.key)):
        answer = await told(gateway, "POST", "/referral/validate", {"referral_code": given}, asker)
        assert answer["valid"] is expected
    renewed = await told(gateway, "POST", "/referral/generate", key=key)
    assert renewed["referral_code"] != code
    assert not (await told(gateway, "POST", "/referral/validate", {"referral_code": code}))["valid"]
    unknown = await issuer.sign_in(gateway, "other@example.com", referral_code=code)
    assert unknown.status_code == 200
    assert await gateway.books.fetchval("select count(*) from gateway.referrals") == 1
