"""Who may call: keys are verified in the database at every request, and a refusal changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gateway.database import call
from tests.harness.builders import BOUND, a_caller, a_key, a_request, a_settlement, a_user, refusal, used

if TYPE_CHECKING:
    from tests.harness.builders import Caller, Connection

pytestmark = pytest.mark.usefixtures("service")


async def admitted(caller: Caller, **changes: Any) -> bool:
    return "hold_id" in await call("authorize", **a_request(caller, **changes))


def credentials(caller: Caller, **changes: Any) -> dict[str, Any]:
    request = a_request(caller)
    names = ("key_id", "key_hashes", "ip", "referer")
    return {name: request[name] for name in names} | {"scope": "inference"} | changes


REFUSED: dict[str, tuple[dict[str, Any], dict[str, Any], int, str]] = {
    "unknown id": ({}, {"key_id": "0" * 12}, 401, "invalid_api_key"),
    "no id": ({}, {"key_id": None}, 401, "invalid_api_key"),
    "other hash": ({}, {"key_hashes": ["v1:" + "0" * 64]}, 401, "invalid_api_key"),
    "no hash": ({}, {"key_hashes": []}, 401, "invalid_api_key"),
    "revoked": ({"status": "revoked"}, {}, 401, "invalid_api_key"),
    "expired": ({"expires_at": datetime(2026, 1, 1, tzinfo=UTC)}, {}, 401, "expired_api_key"),
    "other scope": ({"scopes": ["account:read"]}, {}, 403, "insufficient_scope"),
    "no scope": ({"scopes": []}, {}, 403, "insufficient_scope"),
    "other v4": ({"ip_allowlist": ["198.51.100.8/29"]}, {"ip": "198.51.100.16"}, 403, "ip_not_allowed"),
    "other v6": ({"ip_allowlist": ["2001:db8::/64"]}, {"ip": "2001:db8:0:1::1"}, 403, "ip_not_allowed"),
    "v4 in v6": ({"ip_allowlist": ["198.51.100.0/24"]}, {"ip": "::ffff:198.51.100.7"}, 403, "ip_not_allowed"),
    "unknown ip": ({"ip_allowlist": ["0.0.0.0/0"]}, {"ip": None}, 403, "ip_not_allowed"),
    "no ip allowed": ({"ip_allowlist": []}, {}, 403, "ip_not_allowed"),
    "no referer": ({"referers": ["ok.com"]}, {}, 403, "referer_not_allowed"),
    "no referer allowed": ({"referers": []}, {"referer": "https://ok.com"}, 403, "referer_not_allowed"),
}


@pytest.mark.parametrize("case", REFUSED)
async def test_a_key_is_refused(operator: Connection, case: str) -> None:
    columns, changes, status, code = REFUSED[case]
    caller = await a_caller(operator, **columns)
    for name, arguments in (("authorize", a_request(caller)), ("authenticate", credentials(caller))):
        error = await refusal(operator, name, **arguments | changes)
        assert (error.status, error.code) == (status, code)


async def test_a_suspended_users_key_is_refused_at_once_and_works_again_after(operator: Connection) -> None:
    caller = await a_caller(operator)
    assert await admitted(caller)
    await operator.execute("update gateway.users set status = 'suspended'")
    error = await refusal(operator, **a_request(caller))
    assert (error.status, error.code) == (401, "invalid_api_key")
    await operator.execute("update gateway.users set status = 'active'")
    assert await admitted(caller)


async def test_a_revoked_key_is_refused_from_the_next_request(operator: Connection) -> None:
    caller = await a_caller(operator)
    other = await a_key(operator, caller.user_id)
    assert await admitted(caller)
    await operator.execute("update gateway.api_keys set status = 'revoked' where id = $1", caller.key_id)
    assert (await refusal(operator, **a_request(caller))).code == "invalid_api_key"
    assert await admitted(other)


async def test_a_key_works_until_it_expires_and_under_any_pepper_of_the_ring(operator: Connection) -> None:
    caller = await a_caller(operator, expires_at=datetime.now(UTC) + timedelta(hours=1))
    assert await admitted(caller, key_hashes=["v2:" + "0" * 64, caller.key_hash])


@pytest.mark.parametrize(
    ("allowlist", "ip"),
    [
        (["198.51.100.0/24"], "198.51.100.7"),
        (["203.0.113.0/24", "198.51.100.7/32"], "198.51.100.7"),
        (["2001:db8::/64"], "2001:db8::ffff"),
        (["::/0", "0.0.0.0/0"], "2001:db8::1"),
    ],
)
async def test_a_key_works_from_its_networks(operator: Connection, allowlist: list[str], ip: str) -> None:
    assert await admitted(await a_caller(operator, ip_allowlist=allowlist), ip=ip)


ALLOWED_REFERERS = [
    "https://ok.com",
    "http://ok.com/",
    "https://OK.com/page?x=1#y",
    "https://ok.com:8443/page",
    "https://ok.com?x",
    "https://a.wild.org/",
    "https://a.b.wild.org",
]
REFUSED_REFERERS = [
    "",
    "ok.com",
    "//ok.com/",
    "ftp://ok.com/",
    "javascript:https://ok.com/",
    " https://ok.com/",
    "https://evil.com/?https://ok.com",
    "https://evil.com/https://ok.com/",
    "https://evil.com#https://ok.com/",
    "https://ok.com@evil.com/",
    "https://ok.com:x@evil.com/",
    "https://ok.com:443@evil.com/",
    "https://evil.com\\@ok.com/",
    "https://evil.com\\.wild.org/",
    "https://evil.com\n.wild.org/",
    "https://evil.com%2f.wild.org/",
    "https://ok.com.evil.com/",
    "https://notok.com/",
    "https://ok.comx/",
    "https://sub.ok.com/",
    "https://ok.com./",
    "https://wild.org/",
    "https://evilwild.org/",
    "https://a.wild.org.evil.com/",
    "https:///ok.com",
]


async def test_a_referers_host_decides(operator: Connection) -> None:
    caller = await a_caller(operator, referers=["ok.com", "*.wild.org"])
    for referer in ALLOWED_REFERERS:
        assert await admitted(caller, referer=referer), referer
    for referer in REFUSED_REFERERS:
        error = await refusal(operator, **a_request(caller, referer=referer))
        assert (error.status, error.code) == (403, "referer_not_allowed"), referer


async def test_authenticate_tells_who_calls(operator: Connection) -> None:
    caller = await a_caller(operator, limit_nano=5, limit_reset="daily", allowed_models=["acme/one"])
    found = await call("authenticate", **credentials(caller, scope="account:read"))
    username = await operator.fetchval("select username from gateway.users")
    assert found == {
        "user_id": caller.user_id,
        "key_id": caller.key_id,
        "environment": "dev",
        "role": "user",
        "username": username,
        "scopes": ["account:read", "inference"],
    }


@pytest.mark.parametrize("period", ["daily", "weekly", "monthly", None])
async def test_a_keys_limit_counts_its_own_period(operator: Connection, period: str | None) -> None:
    caller = await a_caller(operator, limit_nano=2 * BOUND, limit_reset=period)
    starts = {"daily": "day", "weekly": "week", "monthly": "month"}
    first_day = await operator.fetchval(
        "select date_trunc($1, now() at time zone 'utc')::date", starts.get(period or "", "month")
    )
    for day, cost in ((first_day, 2 * BOUND), (first_day - timedelta(days=1), 50 * BOUND)):
        await used(operator, caller, day, cost)
    error = await refusal(operator, **a_request(caller))
    assert (error.status, error.code) == (402, "key_limit_reached")
    assert error.metadata == {"limit_source": "key_limit"}
    await operator.execute("update gateway.key_usage set cost_nano = $1 where day = $2", BOUND, first_day)
    if period is None:
        assert (await refusal(operator, **a_request(caller))).code == "key_limit_reached"
    else:
        assert await admitted(caller)


async def test_a_keys_limit_counts_what_it_has_in_flight_and_no_other_keys(operator: Connection) -> None:
    caller = await a_caller(operator, limit_nano=2 * BOUND)
    other = await a_key(operator, caller.user_id)
    assert await admitted(other)
    assert await admitted(caller)
    hold = (await call("authorize", **a_request(caller)))["hold_id"]
    assert (await refusal(operator, **a_request(caller))).code == "key_limit_reached"
    await call("settle", **a_settlement(caller, hold, cost_nano=1))
    assert (await refusal(operator, **a_request(caller))).code == "key_limit_reached"
    assert await admitted(caller, max_tokens=9)
    assert await admitted(other)


async def test_a_keys_own_figures(operator: Connection) -> None:
    caller = await a_caller(operator, credit_nano=0, limit_nano=9, limit_reset="daily")
    today = await operator.fetchval("select (now() at time zone 'utc')::date")
    for days, cost in ((0, 1), (400, 10)):
        await used(operator, caller, today - timedelta(days=days), cost)
    found = await call("key_status", key_id=caller.key_id)
    figures = ("period_nano", "usage_nano", "daily_nano", "weekly_nano", "monthly_nano")
    assert [found[name] for name in figures] == [1, 11, 1, 1, 1]
    assert (found["limit_nano"], found["limit_reset"], found["is_free_tier"]) == (9, "daily", True)
    await call("grant", user_id=caller.user_id, reference="r", amount_nano=5, reason="", actor={"name": "test"})
    assert (await call("key_status", key_id=caller.key_id))["is_free_tier"] is False
    assert await call("key_status", key_id=0) is None


async def test_a_made_key_is_audited_and_works(operator: Connection) -> None:
    user_id = await a_user(operator)
    made = await call(
        "create_key", user_id=user_id, public_id="abcdefABCDEF", key_hash="v1:" + "a" * 64, last_four="0000",
        environment="dev", name="mine", scopes=["inference"], actor={"name": "user:1", "scopes": ["inference"]},
    )  # fmt: skip
    audit = await operator.fetchrow("select * from gateway.audit_logs where action = 'key.created'")
    assert audit is not None
    assert (audit["actor"], audit["resource"]) == ("user:1", f"key:{made['key_id']}")
    assert "a" * 64 not in str(audit)
    row = await operator.fetchrow("select * from gateway.api_keys")
    assert row is not None
    assert (row["user_id"], row["scopes"], row["status"]) == (user_id, ["inference"], "active")
