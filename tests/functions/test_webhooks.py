"""/user/webhooks: events of an account on their way to its owner's programs."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import os
import socket
from typing import TYPE_CHECKING, Any, get_args

import pytest

from gateway import outbox, posting, settings
from gateway.webhooks import Event
from local import seed
from tests.functions.test_errors import error_of
from tests.harness.gateway import listening
from tests.harness.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx

    from tests.harness.gateway import InProcess
    from tests.harness.mailbox import Mailbox

EVENTS = sorted(get_args(Event.__value__))


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    running = Receiver()
    async with listening(running) as running.url:
        yield running


async def ask(
    gateway: InProcess, method: str, path: str = "", body: Any = None, key: str | None = None
) -> httpx.Response:
    return await gateway.client.request(method, f"/user/webhooks{path}", headers=gateway.headers(key=key), json=body)


async def told(gateway: InProcess, method: str, path: str = "", body: Any = None) -> dict[str, Any]:
    response = await ask(gateway, method, path, body)
    assert response.is_success, response.text
    answer: dict[str, Any] = response.json()
    return answer


async def a_webhook(gateway: InProcess, receiver: Receiver, *events: str, path: str = "/hook") -> dict[str, Any]:
    body = {"url": receiver.url + path, "events": list(events or EVENTS)}
    webhook: dict[str, Any] = (await told(gateway, "POST", "", body))["webhook"]
    return webhook


async def happens(gateway: InProcess, event: str = "balance.low", user_id: int | None = None, **payload: Any) -> int:
    statement = "insert into gateway.outbox (event, payload) values ($1, $2) returning id"
    told = json.dumps({"user_id": user_id or gateway.user_id, **payload})
    event_id: int = await gateway.books.fetchval(statement, event, told)
    return event_id


async def again(gateway: InProcess) -> dict[str, int]:
    """A run when everything that waits is due."""
    await gateway.books.execute("update gateway.deliveries set next_try_at = now()")
    return await outbox.send()


async def test_an_event_comes_signed_once_with_its_amounts_in_dollars(gateway: InProcess, receiver: Receiver):
    webhook = await a_webhook(gateway, receiver)
    event_id = await happens(gateway, "balance.low", available_nano=4_100_000_000, low_balance_nano=5 * 10**9)
    await again(gateway)
    assert await again(gateway) == {"sent": 0, "failed": 0}
    ((path, headers, body),) = receiver.came
    assert (path, headers["webhook-id"]) == ("/hook", f"evt_{event_id}")
    sent = json.loads(body)
    assert (sent["type"], sent["data"]) == (
        "balance.low", {"user_id": gateway.user_id, "available_usd": "4.1", "low_balance_usd": "5"},
    )  # fmt: skip
    key = base64.b64decode(webhook["secret"].removeprefix("whsec_"))
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"


async def test_what_really_happens_comes(gateway: InProcess, receiver: Receiver):
    await a_webhook(gateway, receiver, "key.created", "key.deleted")
    made = await gateway.client.post("/user/api-keys", headers=gateway.headers(), json={"key_name": "ci"})
    await gateway.client.delete(f"/user/api-keys/{made.json()['id']}", headers=gateway.headers())
    await again(gateway)
    sent = [json.loads(body) for _, _, body in receiver.came]
    assert sorted(each["type"] for each in sent) == ["key.created", "key.deleted"]
    assert {each["data"]["name"] for each in sent} == {"ci"}


async def test_a_secret_is_shown_once_and_kept_sealed(gateway: InProcess, receiver: Receiver):
    response = await ask(gateway, "POST", "", {"url": receiver.url, "events": ["key.leaked", "key.leaked"]})
    made = response.json()
    assert response.status_code == 201
    assert made["secret"] == made["webhook"]["secret"]
    assert made["webhook"]["events"] == ["key.leaked"]
    assert len(base64.b64decode(made["secret"].removeprefix("whsec_"))) == 32
    tables, listed = str(await gateway.tables()), (await ask(gateway, "GET")).text
    exported = (await gateway.client.get("/user/export", headers=gateway.headers())).text
    for text in (tables, listed, exported):
        assert made["secret"] not in text
        assert receiver.url in text
    assert "sealed" not in listed + exported


async def test_both_sides_know_the_same_events(gateway: InProcess):
    assert sorted(await gateway.books.fetchval("select api.hooked_events()")) == EVENTS


async def test_only_the_events_that_were_asked_for_and_only_ones_own(gateway: InProcess, receiver: Receiver):
    await happens(gateway, "key.paused")  # before there was a webhook
    await a_webhook(gateway, receiver, "key.paused", path="/one")
    await a_webhook(gateway, receiver, "key.paused", "balance.spent", path="/two")
    stranger = await seed.add_user(gateway.books, "stranger")
    ids = [await happens(gateway, event) for event in ("key.paused", "balance.spent", "key.leaked")]
    await happens(gateway, "key.paused", stranger)
    await happens(gateway, "account.recovery")
    assert await again(gateway) == {"sent": 3, "failed": 0}
    came = sorted((path, headers["webhook-id"]) for path, headers, _ in receiver.came)
    assert came == [("/one", f"evt_{ids[0]}"), ("/two", f"evt_{ids[0]}"), ("/two", f"evt_{ids[1]}")]


async def test_one_webhook_that_fails_holds_up_no_other(gateway: InProcess, receiver: Receiver):
    dead = await a_webhook(gateway, receiver)
    await gateway.books.execute("update gateway.webhooks set url = 'http://127.0.0.1:1/' where id = $1", dead["id"])
    await a_webhook(gateway, receiver, path="/good")
    event_id = await happens(gateway)
    assert await outbox.send() == {"sent": 1, "failed": 1}
    assert await again(gateway) == {"sent": 0, "failed": 1}
    assert [(path, headers["webhook-id"]) for path, headers, _ in receiver.came] == [("/good", f"evt_{event_id}")]
    (listed,) = (await told(gateway, "GET", f"/{dead['id']}/deliveries"))["deliveries"]
    assert (listed["event_id"], listed["tries"], listed["reason"]) == (f"evt_{event_id}", 2, "ConnectError")
    assert (listed["sent_at"], listed["failed_at"]) == (None, None)
    assert listed["next_try_at"] is not None
    assert (await gateway.books.fetchval("select api.monitor(1) -> 'outbox_failed'")) == "0"


async def test_twenty_failures_in_a_row_turn_it_off(gateway: InProcess, receiver: Receiver, mailbox: Mailbox):
    webhook = await a_webhook(gateway, receiver, "key.paused")
    receiver.status = 500
    for _ in range(3):
        await happens(gateway, "key.paused", name="x", key_id=1)
    for _ in range(6):
        await again(gateway)
    receiver.status = 204
    await again(gateway)  # one that is taken makes all before forgotten
    receiver.status = 500
    for _ in range(4):
        await happens(gateway, "key.paused", name="x", key_id=1)
    for _ in range(7):
        await again(gateway)
    assert len(receiver.came) == 18 + 3 + 20
    (shown,) = (await told(gateway, "GET"))["webhooks"]
    assert (shown["is_active"], shown["failures"]) == (False, 20)
    assert shown["disabled_at"] is not None
    mails = [mail["mail"]["text"] for mail in mailbox.mails if mail["mail"]["subject"] == "Your webhook was turned off"]
    assert len(mails) == 1
    assert "status 500" in mails[0]
    deliveries = (await told(gateway, "GET", f"/{webhook['id']}/deliveries"))["deliveries"]
    assert {each["reason"] for each in deliveries[:4]} <= {"withdrawn", "status 500"}
    assert all(each["failed_at"] for each in deliveries[:4])
    error_of(await ask(gateway, "POST", f"/{webhook['id']}/test"), 409, "conflict")
    on = await told(gateway, "PUT", f"/{webhook['id']}", {"is_active": True})
    assert (on["webhook"]["failures"], on["webhook"]["disabled_at"]) == (0, None)
    receiver.status = 204
    await happens(gateway, "key.paused", name="x", key_id=1)
    before = len(receiver.came)
    await again(gateway)
    assert len(receiver.came) == before + 1


async def test_a_test_is_sent_once_at_a_time(gateway: InProcess, receiver: Receiver):
    webhook = await a_webhook(gateway, receiver, "key.leaked")
    other = await a_webhook(gateway, receiver, "key.leaked", path="/other")
    answers = [await ask(gateway, "POST", f"/{webhook['id']}/test") for _ in range(3)]
    assert {answer.status_code for answer in answers} == {202}
    (event_id,) = {answer.json()["event_id"] for answer in answers}
    await again(gateway)
    ((path, headers, body),) = receiver.came
    assert (path, headers["webhook-id"], json.loads(body)["type"]) == ("/hook", event_id, "webhook.test")
    (listed,) = (await told(gateway, "GET", f"/{webhook['id']}/deliveries"))["deliveries"]
    assert (listed["event"], listed["tries"], listed["reason"]) == ("webhook.test", 1, None)
    assert listed["sent_at"] is not None
    assert (await told(gateway, "GET", f"/{other['id']}/deliveries"))["deliveries"] == []
    assert (await told(gateway, "POST", f"/{webhook['id']}/test"))["event_id"] != event_id


async def test_deliveries_come_in_pages(gateway: InProcess, receiver: Receiver):
    webhook = await a_webhook(gateway, receiver)
    ids = [f"evt_{await happens(gateway)}" for _ in range(5)]
    await again(gateway)
    seen: list[str] = []
    cursor: int | None = None
    for count in (2, 2, 1):
        at = f"&cursor={cursor}" if cursor else ""
        page = await told(gateway, "GET", f"/{webhook['id']}/deliveries?limit=2{at}")
        assert page["count"] == count
        seen += [each["event_id"] for each in page["deliveries"]]
        cursor = page["next_cursor"]
    assert cursor is None
    assert seen == ids[::-1]


async def test_a_webhook_is_changed_and_deleted_and_that_is_audited(gateway: InProcess, receiver: Receiver):
    webhook = await a_webhook(gateway, receiver, "key.leaked")
    path = f"/{webhook['id']}"
    changed = (await told(gateway, "PUT", path, {"url": receiver.url + "/b", "events": ["key.paused"]}))["webhook"]
    assert (changed["url"], changed["events"], changed["is_active"]) == (receiver.url + "/b", ["key.paused"], True)
    assert not (await told(gateway, "PUT", path, {"is_active": False}))["webhook"]["is_active"]
    await happens(gateway, "key.paused")
    await again(gateway)
    assert receiver.came == []
    await told(gateway, "PUT", path, {"is_active": True})
    await happens(gateway, "key.paused")
    await gateway.books.fetchval("select api.fan_out('[\"webhook\"]', 10)")
    await told(gateway, "DELETE", path)
    error_of(await ask(gateway, "DELETE", path), 404, "not_found")
    assert await again(gateway) == {"sent": 0, "failed": 0}
    assert receiver.came == []
    actions = await gateway.rows("select action from gateway.audit_logs where action like 'webhook.%' order by id")
    expected = ["webhook.created", *["webhook.changed"] * 3, "webhook.deleted"]
    assert [row["action"] for row in actions] == expected


async def test_a_call_that_is_sent_again_makes_one(gateway: InProcess, receiver: Receiver):
    gateway.line.deaf = {"create_webhook"}
    webhook = await a_webhook(gateway, receiver)
    gateway.line.deaf = {"delete_webhook"}
    assert (await told(gateway, "GET"))["count"] == 1
    await told(gateway, "DELETE", f"/{webhook['id']}")


async def test_ten_are_the_most_also_at_once(gateway: InProcess, receiver: Receiver):
    body = {"url": receiver.url, "events": ["key.leaked"]}
    answers = await asyncio.gather(*(ask(gateway, "POST", "", body) for _ in range(14)))
    assert sorted(answer.status_code for answer in answers) == [201] * 10 + [409] * 4


async def test_anothers_webhook_is_as_if_it_were_not(gateway: InProcess, receiver: Receiver):
    webhook = await a_webhook(gateway, receiver)
    stranger = await seed.add_user(gateway.books, "stranger")
    key = (await seed.add_key(gateway.books, stranger)).plaintext
    before = await gateway.tables()
    for method, path, body in (
        ("PUT", "", {"is_active": False}), ("DELETE", "", None), ("POST", "/test", None), ("GET", "/deliveries", None),
    ):  # fmt: skip
        for webhook_id in (webhook["id"], webhook["id"] + 1000):
            error_of(await ask(gateway, method, f"/{webhook_id}{path}", body, key), 404, "not_found")
    assert (await ask(gateway, "GET", key=key)).json()["webhooks"] == []
    assert await gateway.tables() == before


BAD_URLS = [
    "http://example.com/", "https://10.0.0.1/", "https://169.254.169.254/latest", "https://[::ffff:10.0.0.1]/",
    "ftp://127.0.0.1/", "https://", "https://user:pass@127.0.0.1/", "https://127.0.0.1/#here", "https://127.0.0.1/a b",
    "https://127.0.0.1:99999/", "https://nobody.invalid/", "https://[::1", f"https://{'a' * 70}.example/",
    "javascript:1", "//127.0.0.1/",
]  # fmt: skip


@pytest.mark.parametrize("url", BAD_URLS)
async def test_an_address_that_is_not_of_the_internet_is_refused(gateway: InProcess, receiver: Receiver, url: str):
    webhook = await a_webhook(gateway, receiver)
    before = await gateway.tables()
    errors = [
        error_of(await ask(gateway, "POST", "", {"url": url, "events": ["key.leaked"]}), 400, "invalid_request_error"),
        error_of(await ask(gateway, "PUT", f"/{webhook['id']}", {"url": url}), 400, "invalid_request_error"),
    ]
    assert [error["param"] for error in errors] == ["url", "url"]
    assert url not in str(errors)
    assert await gateway.tables() == before


async def test_outside_of_a_developers_machine_its_own_address_is_refused(
    gateway: InProcess, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    webhook = await a_webhook(gateway, receiver)
    monkeypatch.setattr(posting, "settings", settings.load({**os.environ, "STAGE": "production"}))
    for url in (receiver.url, receiver.url.replace("http:", "https:"), "https://localhost/"):
        error_of(await ask(gateway, "PUT", f"/{webhook['id']}", {"url": url}), 400, "invalid_request_error")
    await happens(gateway)
    assert (await again(gateway))["failed"] == 1
    assert receiver.came == []


async def test_a_name_that_leads_elsewhere_later_is_not_asked(
    gateway: InProcess, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
):
    """The address is looked at when an event is sent, not only when the webhook is made."""
    looked_up, find = ["93.184.215.14", "10.0.0.1"], socket.getaddrinfo

    def found(host: str, port: int, **options: Any) -> Any:
        if host != "rebinding.example":
            return find(host, port, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (looked_up.pop(0), port))]

    monkeypatch.setattr(socket, "getaddrinfo", found)
    body = {"url": "https://rebinding.example/hook", "events": EVENTS}
    made = (await told(gateway, "POST", "", body))["webhook"]
    await happens(gateway)
    assert (await again(gateway))["failed"] == 1
    (listed,) = (await told(gateway, "GET", f"/{made['id']}/deliveries"))["deliveries"]
    assert "not public" in listed["reason"]
    assert (looked_up, receiver.came) == ([], [])


@pytest.mark.parametrize(
    "body",
    [
        {}, {"url": "https://example.com/"}, {"url": "https://example.com/", "events": []},
        {"url": 5, "events": EVENTS},
        {"url": "https://example.com/", "events": ["account.recovery"]},
        {"url": "https://example.com/", "events": ["security.alert"]},
        {"url": "https://example.com/", "events": EVENTS, "secret": "whsec_mine"},
        {"url": "https://example.com/" + "a" * 2000, "events": EVENTS},
    ],
)  # fmt: skip
async def test_a_body_that_is_not_right_is_refused(gateway: InProcess, body: dict[str, Any]):
    error_of(await ask(gateway, "POST", "", body), 422, "unprocessable")


async def test_the_end_of_an_account_ends_its_webhooks(gateway: InProcess, receiver: Receiver):
    await a_webhook(gateway, receiver)
    await happens(gateway)
    await gateway.client.request("DELETE", "/user", headers=gateway.headers(), json={"confirmation": "developer"})
    assert await again(gateway) == {"sent": 0, "failed": 0}
    assert await gateway.rows("select from gateway.webhooks") == []
    assert receiver.came == []
