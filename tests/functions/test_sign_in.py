"""POST /auth, /auth/privy and /auth/supabase: who is signed in by which token, and what he is given."""

from __future__ import annotations

import asyncio
import json
import time
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from tests.functions.test_errors import error_of
from tests.harness.upstream import Fault, whole

if TYPE_CHECKING:
    from tests.harness.gateway import InProcess
    from tests.harness.issuer import Issuer
    from tests.harness.upstream import Upstream

ADA = "ada@example.com"
TOGETHER = 32


async def users(gateway: InProcess) -> int:
    return int(await gateway.books.fetchval("select count(*) from gateway.identities"))


async def refused(gateway: InProcess, path: str, status: int, code: str, **body: Any) -> dict[str, Any]:
    before = await gateway.tables()
    error = error_of(await gateway.client.post(path, json=body), status, code)
    assert await gateway.tables() == before
    return error


async def test_a_first_sign_in(gateway: InProcess, issuer: Issuer):
    response = await issuer.sign_in(gateway, ADA, referral_code="FRIEND", is_new_user=False, user={"id": "x"})
    told = response.json()
    assert response.status_code == 200
    assert told.keys() == {
        "success", "message", "user_id", "username", "api_key", "api_key_prefix", "session_key", "session_expires_at",
        "auth_method", "privy_user_id", "is_new_user", "display_name", "email", "credits", "credits_usd",
        "subscription_status", "timestamp",
    }  # fmt: skip
    assert (told["success"], told["is_new_user"], told["auth_method"], told["email"]) == (True, True, "email", ADA)
    assert (told["privy_user_id"], told["credits"], told["subscription_status"]) == (issuer.user(ADA), 0, "inactive")
    assert told["api_key_prefix"] == f"{told['api_key'][:11]}…{told['api_key'][-4:]}"
    assert told["session_key"].startswith("gw_temp_")
    assert 23 * 3600 < datetime.fromisoformat(told["session_expires_at"]).timestamp() - time.time() < 25 * 3600
    assert response.headers["cache-control"] == "no-store"
    for key in (told["api_key"], told["session_key"]):
        answered = await gateway.client.get("/v1/credits", headers=gateway.headers(key=key))
        assert answered.json()["data"]["total_credits"] == 0
    payload = await gateway.books.fetchval("select payload from gateway.outbox where event = 'user.created'")
    assert json.loads(payload) == {"user_id": told["user_id"], "provider": "privy", "referral_code": "FRIEND"}


async def test_a_second_sign_in_shows_no_key(gateway: InProcess, issuer: Issuer):
    first = (await issuer.sign_in(gateway, ADA)).json()
    again = (await issuer.sign_in(gateway, ADA)).json()
    assert (again["user_id"], again["is_new_user"], again["api_key"]) == (first["user_id"], False, None)
    assert again["api_key_prefix"] == first["api_key_prefix"]
    assert again["session_key"] != first["session_key"]


async def test_first_sign_ins_at_the_same_moment(gateway: InProcess, issuer: Issuer):
    responses = await asyncio.gather(*(issuer.sign_in(gateway, ADA) for _ in range(TOGETHER)))
    told = [response.json() for response in responses]
    assert {response.status_code for response in responses} == {200}
    assert len({each["user_id"] for each in told}) == 1
    assert len([each for each in told if each["api_key"]]) == sum(each["is_new_user"] for each in told) == 1
    assert await users(gateway) == 1
    assert issuer.asked == ["/v1/apps/local-app/jwks.json"]
    assert len(await gateway.rows("select from gateway.outbox where event = 'user.created'")) == 1


async def test_a_sign_in_whose_answer_was_lost_is_told_the_key_all_the_same(gateway: InProcess, issuer: Issuer):
    gateway.line.deaf = {"sign_in"}
    told = (await issuer.sign_in(gateway, ADA)).json()
    assert told["is_new_user"]
    assert gateway.line.calls.count("sign_in") == 2
    answered = await gateway.client.get("/v1/credits", headers=gateway.headers(key=told["api_key"]))
    assert answered.status_code == 200
    assert await users(gateway) == 1


@pytest.mark.parametrize("path", ["/auth", "/auth/privy"])
async def test_an_access_token_alone_asks_privys_api_for_the_address(gateway: InProcess, issuer: Issuer, path: str):
    subject = issuer.user(ADA)
    told = (await gateway.client.post(path, json={"token": issuer.access_token(subject)})).json()
    assert (told["email"], told["auth_method"]) == (ADA, "email")
    assert issuer.asked == ["/v1/apps/local-app/jwks.json", f"/v1/users/{subject}"]


async def test_without_the_apps_secret_there_is_no_address(
    gateway: InProcess, issuer: Issuer, monkeypatch: pytest.MonkeyPatch
):
    issuer.trusted(monkeypatch, PRIVY_APP_SECRET="")
    body = {"token": issuer.access_token(issuer.user(ADA)), "email": ADA, "user": {"email": {"address": ADA}}}
    told = (await gateway.client.post("/auth/privy", json=body)).json()
    assert (told["email"], told["auth_method"], told["is_new_user"]) == (None, "privy", True)


LINKED: dict[str, tuple[list[dict[str, Any]], str | None, str]] = {
    "nothing": ([], None, "privy"),
    "wallet": ([{"type": "wallet", "address": "0xabc", "latest_verified_at": 1}], None, "wallet"),
    "upper case": ([{"type": "email", "address": "Ada@Example.COM", "latest_verified_at": 1}], ADA, "email"),
    "not proved": ([{"type": "email", "address": ADA, "verified_at": None}], None, "email"),
    "google": ([{"type": "google_oauth", "email": ADA, "name": "Ada", "latest_verified_at": 1}], ADA, "google"),
    "not for sure": ([{"type": "discord_oauth", "email": ADA, "latest_verified_at": 1}], None, "discord"),
    "no address": ([{"type": "email", "address": "ada", "latest_verified_at": 1}], None, "email"),
    "a line more": ([{"type": "email", "address": f"{ADA}\n", "latest_verified_at": 1}], None, "email"),
    "the latest way": (
        [
            {"type": "google_oauth", "email": "a@b.c", "latest_verified_at": 1},
            {"type": "email", "address": ADA, "latest_verified_at": 2},
        ],
        ADA,
        "email",
    ),
}


@pytest.mark.parametrize("case", LINKED)
@pytest.mark.parametrize("kind", ["access", "identity"])
async def test_only_a_proved_address_counts(gateway: InProcess, issuer: Issuer, case: str, kind: str):
    linked, email, method = LINKED[case]
    subject = issuer.user(ADA)
    issuer.users[subject] = linked
    token = issuer.access_token(subject) if kind == "access" else issuer.identity_token(subject)
    told = (await gateway.client.post("/auth/privy", json={"token": token})).json()
    assert (told["email"], told["auth_method"]) == (email, method)


async def test_both_tokens_are_verified_and_of_one_user(gateway: InProcess, issuer: Issuer):
    ada, eve = issuer.user(ADA), issuer.user("eve@example.com")
    mixed = {"token": issuer.access_token(eve), "identity_token": issuer.identity_token(ada)}
    await refused(gateway, "/auth/privy", 401, "invalid_token", **mixed)
    stale = {"token": issuer.access_token(ada), "identity_token": issuer.identity_token(ada, exp=1)}
    await refused(gateway, "/auth/privy", 401, "invalid_token", **stale)
    both = {"token": issuer.access_token(ada), "identity_token": issuer.identity_token(ada)}
    assert (await gateway.client.post("/auth/privy", json=both)).json()["email"] == ADA


async def test_another_way_of_signing_in_with_the_same_address_is_told_the_first(gateway: InProcess, issuer: Issuer):
    await issuer.sign_in(gateway, ADA)
    token = issuer.supabase_token(issuer.supabase, ADA)
    error = await refused(gateway, "/auth/supabase", 409, "conflict", token=token)
    assert "the way you did first" in error["message"]
    assert ADA not in str(error)


async def test_supabase(gateway: InProcess, issuer: Issuer):
    claims = {"user_metadata": {"full_name": "Ada Lovelace"}}
    token = issuer.supabase_token(issuer.supabase, ADA, **claims)
    told = (await gateway.client.post("/auth/supabase", json={"token": token})).json()
    assert (told["email"], told["display_name"], told["auth_method"]) == (ADA, "Ada Lovelace", "email")
    assert (told["is_new_user"], told["privy_user_id"]) == (True, None)
    assert (await gateway.client.post("/auth/supabase", json={"token": token})).json()["is_new_user"] is False
    assert issuer.asked == ["/auth/v1/.well-known/jwks.json"]


@pytest.mark.parametrize(
    "claims",
    [{"is_anonymous": True}, {"role": "anon"}, {"role": "service_role"}, {"aud": "anon"}, {"iss": "supabase"}],
)
async def test_supabase_tokens_of_nobody_in_particular(gateway: InProcess, issuer: Issuer, claims: dict[str, Any]):
    token = issuer.supabase_token(issuer.supabase, ADA, **claims)
    await refused(gateway, "/auth/supabase", 401, "invalid_token", token=token)


def by(*ways: Any) -> list[dict[str, Any]]:
    return [{"method": way, "timestamp": 1} for way in ways]


@pytest.mark.parametrize(
    ("claims", "is_proved"),
    [
        ({"amr": by("password", "magiclink")}, True),
        ({"amr": by("email/signup")}, True),
        ({"amr": by("oauth"), "app_metadata": {"provider": "google"}}, True),
        ({"amr": by("password")}, False),
        ({"amr": by("oauth"), "app_metadata": {"provider": "azure"}}, False),
        ({"amr": by("oauth"), "app_metadata": {"provider": ["google"]}}, False),
        ({"amr": by("token_refresh"), "app_metadata": {"provider": "google"}}, False),
        ({"amr": by("otp"), "phone": "15550100"}, False),
        ({"amr": by(["otp"], None)}, False),
        ({"amr": ["otp"]}, False),
        ({"amr": "otp"}, False),
        ({"amr": None}, False),
        ({"amr": []}, False),
    ],
)
async def test_an_address_is_believed_when_supabase_saw_it_proved(
    gateway: InProcess, issuer: Issuer, claims: dict[str, Any], *, is_proved: bool
):
    """The user writes `user_metadata` himself."""
    token = issuer.supabase_token(issuer.supabase, ADA, user_metadata={"email_verified": True}, **claims)
    told = (await gateway.client.post("/auth/supabase", json={"token": token})).json()
    assert told["email"] == (ADA if is_proved else None)


async def test_failed_sign_ins_are_counted_by_network_when_a_token_was_well_formed(gateway: InProcess, issuer: Issuer):
    for token in (issuer.access_token("did:privy:ada", exp=1), issuer.access_token("did:privy:ada", aud="other"), "x"):
        await refused(gateway, "/auth/privy", 401, "invalid_token", token=token)
    counted = await gateway.rows("select code, subject, count, network::text from gateway.refusals")
    assert counted == [{"code": "invalid_token", "subject": "privy", "count": 2, "network": "127.0.0.0/24"}]
    assert gateway.line.calls == ["record_refusal"] * 2


@pytest.mark.parametrize("status", ["suspended", "deleted"])
async def test_a_closed_account(gateway: InProcess, issuer: Issuer, status: str):
    await issuer.sign_in(gateway, ADA)
    await gateway.books.execute("update gateway.users set status = $1", status)
    await refused(gateway, "/auth/privy", 403, "account_closed", token=issuer.identity_token(issuer.user(ADA)))
    assert await gateway.books.fetchval("select count from gateway.refusals where code = 'account_closed'") == 1


@pytest.mark.parametrize("path", ["/auth", "/auth/privy", "/auth/supabase"])
async def test_a_way_that_is_not_set_up(gateway: InProcess, issuer: Issuer, monkeypatch: pytest.MonkeyPatch, path: str):
    issuer.trusted(monkeypatch, PRIVY_APP_ID="", SUPABASE_AUTH_URL="")
    error = await refused(gateway, path, 404, "not_found", token="e30.e30.e30")
    assert "not set up" in error["message"]
    assert gateway.line.calls == []


async def test_an_issuer_that_is_away(
    gateway: InProcess, issuer: Issuer, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
):
    issuer.trusted(monkeypatch, PRIVY_BASE_URL="http://127.0.0.1:1")
    token = issuer.identity_token(issuer.user(ADA))
    await refused(gateway, "/auth/privy", 503, "no_provider_available", token=token)
    keys = whole(json.dumps({"keys": issuer.signer.published}).encode())
    upstream.will(keys, whole(b"{}", 500))
    issuer.trusted(monkeypatch, PRIVY_BASE_URL=upstream.url)
    token = issuer.access_token(issuer.user(ADA))
    await refused(gateway, "/auth/privy", 503, "no_provider_available", token=token)
    upstream.will(whole(b"{}", 404))
    await refused(gateway, "/auth/privy", 401, "invalid_token", token=token)
    upstream.will((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", Fault.CLOSE))
    await refused(gateway, "/auth/privy", 502, "provider_error", token=token)


@pytest.mark.parametrize(
    "body", [{}, {"token": ""}, {"token": 7}, {"token": "x" * 20_001}, {"token": "x", "role": "admin"}, []]
)
async def test_bodies_that_are_none(gateway: InProcess, issuer: Issuer, body: Any):
    for path in ("/auth/privy", "/auth/supabase"):
        error_of(await gateway.client.post(path, json=body), 422, "unprocessable")
    assert (gateway.line.calls, issuer.asked) == ([], [])
