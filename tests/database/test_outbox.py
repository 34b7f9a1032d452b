"""Events on their way to a receiver that is there, over HTTP: at least once, signed, and none in another's way."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from typing import TYPE_CHECKING, Any

import httpx
import msgspec
import pytest

from gateway import outbox, posting, settings
from gateway.database import call
from gateway.settings import AlertSettings, Secret
from tests.harness.builders import a_caller, crowd, dump
from tests.harness.gateway import listening
from tests.harness.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.harness.builders import Connection
    from tests.harness.postgres import Database

    type Handle = Callable[[], Awaitable[tuple[int, dict[str, str]]]]

pytestmark = pytest.mark.usefixtures("service")

KEY = b"a key that both sides have, and nobody else"
SECRET = "whsec_" + base64.b64encode(KEY).decode()


def configured(patch: pytest.MonkeyPatch, url: str | None, stage: str = "dev", secret: str = SECRET) -> None:
    """Have alerts sent to this address."""
    alerts = AlertSettings(url, Secret(secret), pause_keys=False)
    changed = msgspec.structs.replace(settings.settings, alerts=alerts, stage=stage)
    for module in (outbox, posting):
        patch.setattr(module, "settings", changed)


@pytest.fixture
async def receiver(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Receiver]:
    """A receiver to which alerts are sent."""
    running = Receiver()
    async with listening(running) as running.url:
        configured(monkeypatch, running.url + "/alerts")
        yield running


async def an_event(operator: Connection, event: str = outbox.ALERT, **payload: Any) -> int:
    statement = "insert into gateway.outbox (event, payload) values ($1, $2) returning id"
    event_id: int = await operator.fetchval(statement, event, json.dumps(payload))
    return event_id


async def row(operator: Connection, event_id: int) -> dict[str, Any]:
    """The one delivery of an event."""
    (found,) = await operator.fetch("select * from gateway.deliveries where event_id = $1", event_id)
    return dict(found)


async def claimed(most: int = 5) -> list[dict[str, Any]]:
    """What another sender has for itself from now on."""
    await call("fan_out", channels=["alert"], most=100)
    found: list[dict[str, Any]] = await call("claim_deliveries", channel="alert", most=most, lease_s=60)
    return found


async def make_due(operator: Connection) -> None:
    await operator.execute("update gateway.deliveries set next_try_at = now()")


async def test_an_alert_is_sent_signed_and_once(operator: Connection, receiver: Receiver) -> None:
    event_id = await an_event(operator, kind="unusual_spend", subject="key:7")
    assert await outbox.send() == {"sent": 1, "failed": 0}
    assert await outbox.send() == {"sent": 0, "failed": 0}
    ((path, headers, body),) = receiver.came
    told = json.loads(body)
    assert path == "/alerts"
    assert (told["type"], told["data"]) == (outbox.ALERT, {"kind": "unusual_spend", "subject": "key:7"})
    assert headers["webhook-id"] == f"evt_{event_id}"
    content = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    expected = base64.b64encode(hmac.new(KEY, content, hashlib.sha256).digest()).decode()
    assert headers["webhook-signature"] == f"v1,{expected}"
    stored = await row(operator, event_id)
    assert (stored["sent_at"] is None, stored["failed_at"], stored["tries"]) == (False, None, 1)


def test_a_signature_is_the_standards_own_example() -> None:
    """From the tests of its reference libraries (github.com/standard-webhooks/standard-webhooks)."""
    secret = Secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
    headers = posting.signed(secret, "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330, b'{"test": 2432232314}')
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(("status", "headers"), [(500, {}), (404, {}), (302, {"location": "/elsewhere"}), (307, {})])
async def test_a_receiver_that_refuses_is_asked_again_later(
    operator: Connection, receiver: Receiver, status: int, headers: dict[str, str]
) -> None:
    event_id = await an_event(operator)
    receiver.status, receiver.headers = status, headers
    assert await outbox.send() == {"sent": 0, "failed": 1}
    stored = await row(operator, event_id)
    assert (stored["sent_at"], stored["failed_at"], stored["tries"]) == (None, None, 1)
    assert await operator.fetchval("select next_try_at > now() + interval '20 seconds' from gateway.deliveries")
    assert await outbox.send() == {"sent": 0, "failed": 0}, "it is not due"
    receiver.status, receiver.headers = 200, {}
    await make_due(operator)
    assert await outbox.send() == {"sent": 1, "failed": 0}
    assert [path for path, *_ in receiver.came] == ["/alerts", "/alerts"]
    assert len(set(receiver.ids())) == 1


async def test_an_event_that_fails_always_is_given_up_and_kept(operator: Connection, receiver: Receiver) -> None:
    event_id = await an_event(operator)
    receiver.status = 503
    for _ in range(outbox.MOST_TRIES + 2):
        await make_due(operator)
        await outbox.send()
    assert len(receiver.came) == outbox.MOST_TRIES
    stored = await row(operator, event_id)
    assert (stored["sent_at"], stored["tries"]) == (None, outbox.MOST_TRIES)
    assert stored["failed_at"] is not None
    assert (await call("monitor", hours=1))["outbox_failed"] == 1


async def test_a_receiver_that_is_away_or_silent_counts_as_one_that_refuses(
    operator: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def silent(*_: Any) -> None:
        await asyncio.Event().wait()

    event_id = await an_event(operator)
    configured(monkeypatch, "http://127.0.0.1:1/")
    assert await outbox.send() == {"sent": 0, "failed": 1}
    monkeypatch.setattr(outbox, "SEND_S", 0.05)
    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    configured(monkeypatch, f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")
    await make_due(operator)
    assert await outbox.send() == {"sent": 0, "failed": 1}
    server.close()
    assert (await row(operator, event_id))["tries"] == 2


async def test_events_that_nobody_sends_stay_and_are_in_nobodys_way(
    operator: Connection, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outbox, "MOST_EVENTS", 1)
    mails = [await an_event(operator, "user.created") for _ in range(5)]
    alert = await an_event(operator)
    untouched = "select * from gateway.outbox where id = any ($1) order by id"
    before = await operator.fetch(untouched, mails)
    assert await outbox.send() == {"sent": 1, "failed": 0}
    assert receiver.ids() == [f"evt_{alert}"]
    assert await operator.fetch(untouched, mails) == before
    assert await operator.fetchval("select count(*) from gateway.deliveries") == 1


async def test_without_a_webhook_nothing_is_touched(operator: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    await an_event(operator)
    before = await dump(operator)
    configured(monkeypatch, None)
    assert await outbox.send() == {"sent": 0, "failed": 0}
    assert await dump(operator) == before


@pytest.mark.parametrize("error", [httpx.ReadError("cut"), KeyError("name")])
async def test_one_failure_holds_up_no_other(
    operator: Connection, receiver: Receiver, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    bad, good = await an_event(operator), await an_event(operator)
    deliver = outbox._deliver

    async def failing(client: httpx.AsyncClient, url: str, secret: Secret, delivery: Any, told: Any) -> None:
        if delivery["event_id"] == bad:
            raise error
        await deliver(client, url, secret, delivery, told)

    monkeypatch.setattr(outbox, "_deliver", failing)
    assert await outbox.send() == {"sent": 1, "failed": 1}
    assert receiver.ids() == [f"evt_{good}"]


async def test_senders_at_once_take_different_events(operator: Connection, database: Database) -> None:
    for _ in range(20):
        await an_event(operator)
    async with crowd(database.service, 8) as ask:
        made = await asyncio.gather(*(ask("fan_out", channels=["alert"], most=5) for _ in range(8)))
        assert sum(each["alert"] for each in made) == 20
        asked = (ask("claim_deliveries", channel="alert", most=5, lease_s=60) for _ in range(8))
        taken = [delivery["event_id"] for batch in await asyncio.gather(*asked) for delivery in batch]
    assert len(taken) == len(set(taken)) == 20


async def test_what_a_dead_sender_held_comes_again_under_its_id(operator: Connection, receiver: Receiver) -> None:
    event_id = await an_event(operator)
    (held,) = await claimed()
    assert await outbox.send() == {"sent": 0, "failed": 0}
    await make_due(operator)  # the lease is over
    assert await outbox.send() == {"sent": 1, "failed": 0}
    assert receiver.ids() == [f"evt_{event_id}"]
    failed = await call("delivery_failed", delivery_id=held["id"], tries=0, wait_s=None, reason="late")
    assert failed == {"counted": False}
    assert (await row(operator, event_id))["failed_at"] is None, "what was delivered stays so"


async def test_a_failure_that_is_reported_twice_is_counted_once(operator: Connection) -> None:
    event_id = await an_event(operator)
    (held,) = await claimed()
    for counted in (True, False):
        told = await call("delivery_failed", delivery_id=held["id"], tries=0, wait_s=60, reason="status 500")
        assert told == {"counted": counted}
    assert [(await row(operator, event_id))[name] for name in ("tries", "reason")] == [1, "status 500"]


@pytest.mark.parametrize(
    ("stage", "url"),
    [
        ("production", "http://127.0.0.1:1/"),
        ("production", "https://127.0.0.1:1/"),
        ("production", "https://localhost:1/"),
        ("staging", "https://10.0.0.1/"),
        ("staging", "https://169.254.169.254/latest/meta-data"),
        ("production", "https://[::1]/"),
        ("production", "https://[::ffff:10.0.0.1]/"),
        ("production", "https://[64:ff9b::a00:1]/"),
        ("production", "https://2130706433/"),
        ("production", "https://0x7f.1/"),
        ("dev", "http://10.0.0.1/"),
        ("dev", "https://192.168.0.1/"),
        ("dev", "http://93.184.215.14/"),
    ],
)
async def test_no_private_address_is_asked(
    operator: Connection, monkeypatch: pytest.MonkeyPatch, stage: str, url: str
) -> None:
    configured(monkeypatch, url, stage)
    async with httpx.AsyncClient() as client:
        monkeypatch.setattr(client, "send", None)
        event = {"event_id": 1, "event": outbox.ALERT, "created_at": "2026-11-23T00:00:00Z", "tries": 0}
        with pytest.raises(posting.Undelivered, match="not public"):
            await outbox._deliver(client, url, Secret(SECRET), event, {})
    await an_event(operator)
    assert await outbox.send() == {"sent": 0, "failed": 1}


def test_waits_grow_to_a_bound_and_differ() -> None:
    for tries in range(outbox.MOST_TRIES):
        longest = min(outbox.MOST_WAIT_S, outbox.WAIT_S * 2**tries)
        waits = {outbox._wait_s(tries) for _ in range(50)}
        assert longest // 2 <= min(waits) <= max(waits) <= longest
        assert len(waits) > 1


async def test_a_secret_that_cannot_be_read_sends_nothing(
    operator: Connection, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(monkeypatch, receiver.url, secret="whsec_no base64!")
    await an_event(operator)
    assert await outbox.send() == {"sent": 0, "failed": 1}
    assert receiver.came == []


async def test_what_was_told_long_ago_goes_and_the_rest_stays(operator: Connection) -> None:
    caller = await a_caller(operator)
    await call("fan_out", channels=["mail", "webhook", "alert"], most=100)
    kept = await operator.fetchval("select count(*) from gateway.outbox")
    assert (await call("purge_outbox"))["events"] == 0
    await operator.execute("update gateway.outbox set created_at = created_at - interval '31 days'")
    await call("grant", user_id=caller.user_id, reference="x", amount_nano=1, reason="", actor={"name": "test"})
    for age in (91, 1):
        await operator.execute(
            "insert into gateway.stripe_events (id, type, object_id, created_at, worked_at)"
            " values ($1, 'x', 'x', now(), now() - make_interval(days => $2))", f"evt_{age}", age,
        )  # fmt: skip
    assert await call("purge_outbox") == {"events": kept, "stripe_events": 1}
    assert await operator.fetchval("select count(*) from gateway.outbox") == 1
