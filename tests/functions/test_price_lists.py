"""Providers' price lists: believed within reason; what cannot be right is never served, and an operator decides."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway import price_lists, providers
from tests.harness.gateway import GPT
from tests.harness.upstream import Fault, Upstream, whole
from tests.providers.subjects import adapter

if TYPE_CHECKING:
    from tests.harness.gateway import InProcess
    from tests.harness.upstream import Reply

PROMPT, COMPLETION = "0.00000015", "0.0000006"
"""What the seed sells GPT at, in dollars a token."""


@pytest.fixture(autouse=True)
def lists(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every provider's list is at the double's address."""
    monkeypatch.setattr(providers, "without_key", lambda name: adapter(name, upstream.url))


def a_list(prompt: Any, completion: Any = COMPLETION) -> Reply:
    entry = {"id": GPT, "name": "x", "pricing": {"prompt": prompt, "completion": completion}}
    return whole(json.dumps({"data": [entry, {"id": "acme/unsold", "name": "x", "pricing": {}}]}).encode())


async def synced(upstream: Upstream, *replies: Reply) -> Any:
    upstream.will(*replies, whole(b'{"data": []}'))
    return (await price_lists.sync())["openrouter"]


async def served(gateway: InProcess) -> tuple[str, str]:
    pricing = (await gateway.client.get(f"/v1/models/{GPT}")).json()["pricing"]
    return pricing["prompt"], pricing["completion"]


async def open_alerts(gateway: InProcess) -> int:
    query = "select count(*) from gateway.alerts where kind = 'price_quarantined' and resolved_at is null"
    return int(await gateway.books.fetchval(query))


async def test_a_price_that_changed_is_the_price_from_now_on(gateway: InProcess, upstream: Upstream):
    assert await synced(upstream, a_list("0.0000003")) == {"updated": 1, "quarantined": 0}
    assert await served(gateway) == ("0.0000003", COMPLETION)
    assert await synced(upstream, a_list("0.0000003")) == {"updated": 0, "quarantined": 0}
    assert [request.path for request in upstream.requests] == ["/models"] * 4
    assert not any("authorization" in request.headers for request in upstream.requests)


WRONG: dict[str, tuple[Any, Any, str]] = {
    "ten times": ("0.0000015", COMPLETION, "too high"),
    "a thousand times": (PROMPT, "0.0006", "too high"),
    "a thousandth": ("0.00000000015", COMPLETION, "too low"),
    "zero": ("0", COMPLETION, "zero"),
    "negative": ("-1", COMPLETION, "missing"),
    "missing": (PROMPT, None, "missing"),
    "a word": ("free", COMPLETION, "missing"),
}


@pytest.mark.parametrize("case", WRONG)
async def test_what_cannot_be_right_is_told_once_and_not_served(gateway: InProcess, upstream: Upstream, case: str):
    prompt, completion, reason = WRONG[case]
    for _ in range(2):
        assert await synced(upstream, a_list(prompt, completion)) == {"updated": 0, "quarantined": 1}
    assert await served(gateway) == (PROMPT, COMPLETION)
    assert [row["reason"] for row in await gateway.rows("select reason from gateway.quarantined_prices")] == [reason]
    assert await open_alerts(gateway) == 1


BROKEN: dict[str, Reply] = {
    "an error": whole(b"{}", 500),
    "no JSON": whole(b"<html>"),
    "another kind": whole(b'{"data": [5]}'),
    "nothing in it": whole(b"{}"),
    "cut": (Fault.CLOSE,),
}


@pytest.mark.parametrize("case", BROKEN)
async def test_a_list_that_cannot_be_read_changes_nothing(gateway: InProcess, upstream: Upstream, case: str):
    before = await gateway.rows("select * from gateway.offers order by model_id, provider")
    upstream.will(BROKEN[case])
    assert (await price_lists.sync())["openrouter"] == {"failed": "provider_error"}
    assert await gateway.rows("select * from gateway.offers order by model_id, provider") == before


@pytest.mark.parametrize("action", ["accept", "dismiss"])
async def test_an_operator_decides(gateway: InProcess, upstream: Upstream, action: str):
    await synced(upstream, a_list("0.000003"))
    headers = gateway.headers(key=gateway.admin_key)
    (waiting,) = (await gateway.client.get("/admin/quarantined-prices", headers=headers)).json()["data"]
    assert (waiting["model_id"], waiting["seen"]["prompt"]) == (GPT, 3_000_000_000)
    path = f"/admin/quarantined-prices/{waiting['id']}"
    assert (await gateway.client.post(path, headers=headers, json={"action": action})).status_code == 200
    assert (await gateway.client.post(path, headers=headers, json={"action": action})).status_code == 404
    assert await open_alerts(gateway) == 0
    # the same list again is no news, whatever was decided
    await synced(upstream, a_list("0.000003"))
    assert await served(gateway) == ("0.000003" if action == "accept" else PROMPT, COMPLETION)
    assert (await gateway.client.get("/admin/quarantined-prices", headers=headers)).json()["count"] == 0
    (entry,) = await gateway.rows("select * from gateway.audit_logs where action like 'price.%'")
    assert entry["action"] == f"price.{action}ed"
