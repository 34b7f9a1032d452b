"""/admin/usage, /admin/monitor and /admin/alerts over HTTP: what was used, what it brought, and how things are."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from gateway import usage
from gateway.money import NANO
from tests.functions.test_errors import error_of

if TYPE_CHECKING:
    import httpx

    from tests.harness.gateway import InProcess

TODAY = datetime.now(UTC).date()


async def get(gateway: InProcess, path: str) -> httpx.Response:
    return await gateway.client.get(f"/admin/{path}", headers=gateway.headers(key=gateway.admin_key))


async def told(gateway: InProcess, path: str) -> dict[str, Any]:
    response = await get(gateway, path)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def served(gateway: InProcess) -> int:
    """Two answers for the customer, one for another, and one that failed; all added up. What they brought."""
    first = await gateway.balance()
    await gateway.ask()
    await gateway.ask(model="sandbox/chat")
    await gateway.ask(model="sandbox/error")
    await gateway.ended(3)
    brought = first - await gateway.balance()
    await gateway.customer(5 * NANO)
    await gateway.ask()
    await gateway.ended(4)
    brought += 5 * NANO - await gateway.balance()
    await usage.roll_up()
    return brought


@pytest.mark.parametrize("group_by", ["day", "model", "provider", "user", "key"])
async def test_rows_add_up_to_the_totals_and_to_the_ledger(gateway: InProcess, group_by: str):
    brought = await served(gateway)
    answer = await told(gateway, f"usage?group_by={group_by}")
    rows, totals = answer["data"], answer["totals"]
    assert (totals["requests"], totals["errors"]) == (4, 1)
    assert Decimal(totals["revenue_usd"]) * NANO == brought
    for name in ("requests", "errors", "prompt_tokens", "completion_tokens"):
        assert sum(row[name] for row in rows) == totals[name]
    for name in ("revenue_usd", "upstream_cost_usd", "margin_usd"):
        assert sum(Decimal(row[name]) for row in rows) == Decimal(totals[name])
    assert all(row["p50_ms"] <= row["p95_ms"] <= row["p99_ms"] for row in rows if row["requests"] > row["errors"])
    assert len({row[group_by] for row in rows}) == len(rows) == {"day": 1, "provider": 1}.get(group_by, 2)


async def test_errors_are_told_by_type(gateway: InProcess):
    await served(gateway)
    row = next(row for row in (await told(gateway, "usage?group_by=model"))["data"] if row["model"] == "sandbox/error")
    assert row["error_rate"] == 1
    assert sum(row["error_types"].values()) == 1


@pytest.mark.parametrize("group_by", ["model", "user"])
async def test_pages_follow_each_other(gateway: InProcess, group_by: str):
    await served(gateway)
    whole = (await told(gateway, f"usage?group_by={group_by}"))["data"]
    seen: list[Any] = []
    cursor = ""
    while True:
        page = await told(gateway, f"usage?group_by={group_by}&limit=1{cursor}")
        seen += page["data"]
        if page["next_cursor"] is None:
            break
        cursor = f"&cursor={page['next_cursor']}"
    assert seen == whole
    assert len(seen) == 2


async def test_usage_is_filtered(gateway: InProcess):
    await served(gateway)
    assert (await told(gateway, f"usage?group_by=user&user_id={gateway.user_id}"))["totals"]["requests"] == 1
    assert (await told(gateway, "usage?group_by=day&model=sandbox/error"))["totals"]["requests"] == 1
    assert (await told(gateway, f"usage?to={TODAY - timedelta(days=1)}"))["totals"]["requests"] == 0


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("group_by=nothing", 422),
        ("from=2026-01-01&to=2025-01-01", 400),
        ("from=2026-01-01&to=2026-12-31", 400),
        ("limit=0", 422),
        ("limit=101", 422),
        ("group_by=user&model=x", 400),
        ("group_by=user&cursor=x", 400),
        ("group_by=model&user_id=1", 400),
        ("unknown=1", 422),
        ("from=tomorrow", 422),
    ],
)
async def test_what_the_sums_cannot_tell_is_refused(gateway: InProcess, query: str, status: int):
    code = "unprocessable" if status == 422 else "invalid_request_error"
    error_of(await get(gateway, f"usage?{query}"), status, code)


async def test_csv_is_what_the_rows_are_and_no_formula(gateway: InProcess):
    await served(gateway)
    await gateway.books.execute("update gateway.users set username = '=HYPERLINK(1)' where id = $1", gateway.user_id)
    response = await get(gateway, "usage?group_by=user&format=csv")
    assert response.headers["content-type"] == "text/csv; charset=utf-8"
    assert "attachment" in response.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(response.text)))
    shown = (await told(gateway, "usage?group_by=user"))["data"]
    assert [row["revenue_usd"] for row in rows] == [row["revenue_usd"] for row in shown]
    assert [row["label"] for row in rows] == ["'=HYPERLINK(1)", "developer"]


async def test_the_monitor_says_how_things_are(gateway: InProcess):
    await served(gateway)
    answer = await told(gateway, "monitor")
    assert (answer["system"]["status"], answer["system"]["total_requests"]) == ("healthy", 4)
    assert (answer["system"]["active_users"], answer["system"]["error_rate"]) == (2, 0.25)
    assert answer["database"]["status"] == "connected"
    assert answer["money"] == {
        "holds_open": 0, "held_usd": "0", "holds_stale": 0, "stripe_events_waiting": 0, "payments_disagreeing": 0
    }  # fmt: skip
    assert [each["provider"] for each in answer["providers"]] == ["sandbox"]
    await gateway.client.get("/v1/key", headers=gateway.headers(key=gateway.admin_key[:-1] + "x"))
    await gateway.books.execute("update gateway.api_keys set status = 'revoked' where user_id = $1", gateway.user_id)
    await gateway.client.get("/v1/key", headers=gateway.headers())
    assert (await told(gateway, "monitor"))["refusals"] == {"invalid_api_key": 1}


async def test_a_hold_that_nobody_ended_is_seen(gateway: InProcess):
    gateway.line.cut = {"release"}
    await gateway.ask(model="sandbox/error")
    await gateway.books.execute("update gateway.credit_holds set expires_at = now() - interval '11 minutes'")
    answer = await told(gateway, "monitor")
    assert (answer["system"]["status"], answer["money"]["holds_stale"]) == ("degraded", 1)
    await gateway.expire()


async def test_alerts_are_listed_and_resolved(gateway: InProcess):
    for number in range(3):
        await gateway.books.fetchval("select api.raise_alert('refusals_burst', $1, '{}')", f"network:{number}")
    page = await told(gateway, "alerts?limit=2")
    rest = await told(gateway, f"alerts?limit=2&cursor={page['next_cursor']}")
    subjects = [alert["subject"] for alert in page["alerts"] + rest["alerts"]]
    assert subjects == ["network:2", "network:1", "network:0"]
    path = f"/admin/alerts/{page['alerts'][0]['id']}/resolve"
    headers = gateway.headers(key=gateway.admin_key)
    assert (await gateway.client.post(path, headers=headers, json={"note": "a scanner"})).status_code == 200
    assert [alert["note"] for alert in (await told(gateway, "alerts?status=resolved"))["alerts"]] == ["a scanner"]
    assert len((await told(gateway, "alerts?status=open"))["alerts"]) == 2
    assert (await told(gateway, "monitor"))["alerts_open"] == {"refusals_burst": 2}
    gone = await gateway.client.post("/admin/alerts/999999/resolve", headers=headers, json={"note": "x"})
    error_of(gone, 404, "not_found")
