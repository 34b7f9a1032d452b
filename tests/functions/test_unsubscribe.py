"""GET and POST /unsubscribe: a mail's link, as people and mail programs use it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gateway import outbox, unsubscribe
from tests.functions.test_errors import error_of

if TYPE_CHECKING:
    from tests.harness.gateway import InProcess
    from tests.harness.mailbox import Mailbox


async def wanted(gateway: InProcess) -> dict[str, Any]:
    answer = await gateway.client.get("/user/notifications/preferences", headers=gateway.headers())
    preferences: dict[str, Any] = answer.json()["preferences"]
    return preferences


async def test_one_click_in_a_mail_ends_mails_of_its_kind(gateway: InProcess, mailbox: Mailbox):
    await outbox.send()
    links = {
        mail["mail"]["headers"]["List-Unsubscribe"][1:-1]
        for mail in mailbox.mails
        if mail["mail"]["to"] == ["developer@example.com"]
    }
    (link,) = links
    path = link.removeprefix("https://api.example.com")
    before = await wanted(gateway)
    assert before["key_events"]
    tables = await gateway.tables()
    page = await gateway.client.get(path)
    assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert '<form method="post">' in page.text
    assert page.headers["referrer-policy"] == "no-referrer"
    assert await gateway.tables() == tables, "who looks changes nothing: scanners do"
    one_click = {"content-type": "application/x-www-form-urlencoded"}
    for _ in range(2):
        done = await gateway.client.post(path, content=b"List-Unsubscribe=One-Click", headers=one_click)
        assert done.status_code == 200
        assert "no more mails about your API keys" in done.text
    assert await wanted(gateway) == before | {"key_events": False}
    entries = await gateway.rows("select actor from gateway.audit_logs where action = 'preferences.changed'")
    assert [entry["actor"] for entry in entries] == [f"user:{gateway.user_id}"]
    taken = len(mailbox.mails)
    await gateway.a_key()
    await outbox.send()
    assert len(mailbox.mails) == taken


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_a_link_that_is_not_ours_is_refused(gateway: InProcess, method: str):
    good = unsubscribe.url_for(gateway.user_id, "key_events").partition("?token=")[2]
    before = await gateway.tables()
    for token in (good[:-1], good.replace("key_events", "low_balance"), "x"):
        error_of(await gateway.client.request(method, f"/unsubscribe?token={token}"), 400, "invalid_request_error")
    error_of(await gateway.client.request(method, "/unsubscribe"), 422, "unprocessable")
    assert await gateway.tables() == before


async def test_an_account_that_is_gone_changes_nothing(gateway: InProcess):
    link = unsubscribe.url_for(gateway.user_id, "key_events").partition("?")[2]
    await gateway.books.execute("update gateway.users set status = 'deleted' where id = $1", gateway.user_id)
    before = await gateway.tables()
    assert (await gateway.client.post(f"/unsubscribe?{link}")).status_code == 200
    assert await gateway.tables() == before
