"""Mails: who gets one about which event, once, whatever fails on the way."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any

import pytest

from gateway import letters, outbox, sealing
from gateway.database import call
from local.mail import PREFERENCES, SAMPLES
from tests.harness.builders import a_user, crowd, dump
from tests.harness.mailbox import API_URL

if TYPE_CHECKING:
    from tests.harness.builders import Connection
    from tests.harness.mailbox import Mailbox
    from tests.harness.postgres import Database

pytestmark = pytest.mark.usefixtures("service")

ADA = "ada@example.com"
ACTOR = {"name": "test"}


async def event(operator: Connection, name: str, user_id: int | None, **payload: Any) -> int:
    statement = "insert into gateway.outbox (event, payload) values ($1, $2) returning id"
    told = {**SAMPLES[name], "user_id": user_id, **payload}
    event_id: int = await operator.fetchval(statement, name, json.dumps(told))
    return event_id


async def ada(operator: Connection, **columns: Any) -> int:
    return await a_user(operator, credit_nano=0, **{"email": ADA, "display_name": "Ada <L>", **columns})


async def again(operator: Connection) -> dict[str, int]:
    """A run when everything that waits is due."""
    await operator.execute("update gateway.deliveries set next_try_at = now()")
    return await outbox.send()


async def test_each_mailed_event_has_its_words_and_a_preference_that_both_sides_know(operator: Connection) -> None:
    assert sorted(await operator.fetchval("select api.mailed_events()")) == sorted(letters.EVENTS)
    rows = await operator.fetch("select e, api.preference_of(e) as p from unnest(api.mailed_events()) e")
    assert {row["e"]: row["p"] for row in rows if row["p"]} == PREFERENCES


@pytest.mark.parametrize("name", sorted(set(letters.EVENTS) - {"security.alert"}))
async def test_an_event_is_mailed_to_its_user_once(operator: Connection, mailbox: Mailbox, name: str) -> None:
    user_id = await ada(operator)
    await a_user(operator, email="other@example.com", credit_nano=0)
    await call("set_preferences", user_id=user_id, changes={"usage_report": True}, actor=ACTOR)
    more = {"sealed": sealing.seal("gwr_x"), "expires_at": "2099-01-01T00:00:00Z"} if name == "account.recovery" else {}
    event_id = await event(operator, name, user_id, **more)
    assert await outbox.send() == {"sent": 1, "failed": 0}
    assert await again(operator) == {"sent": 0, "failed": 0}
    ((address, subject),) = mailbox.taken
    assert (address, mailbox.mails[0]["idempotency_key"]) == (ADA, f"evt_{event_id}/{user_id}")
    mail = mailbox.last
    assert subject in mail["html"].replace("&#x27;", "'")
    assert "Hello Ada <L>," in mail["text"]
    assert "Hello Ada &lt;L&gt;," in mail["html"]
    headers = mail.get("headers", {})
    assert bool(headers) == (name in PREFERENCES) == ("/unsubscribe" in mail["text"])
    if headers:
        assert headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
        assert headers["List-Unsubscribe"].startswith(f"<{API_URL}/unsubscribe?token={user_id}.{PREFERENCES[name]}.")


async def test_an_alert_is_mailed_to_each_admin(operator: Connection, mailbox: Mailbox) -> None:
    admins = [await a_user(operator, email=f"{n}@example.com", role="admin", credit_nano=0) for n in range(3)]
    await operator.execute("update gateway.users set status = 'suspended' where id = $1", admins[2])
    user_id = await ada(operator)
    event_id = await event(operator, "security.alert", user_id)
    assert await outbox.send() == {"sent": 2, "failed": 0}
    assert sorted(address for address, _ in mailbox.taken) == ["0@example.com", "1@example.com"]
    assert {mail["idempotency_key"] for mail in mailbox.mails} == {f"evt_{event_id}/{each}" for each in admins[:2]}


@pytest.mark.parametrize(
    "columns", [{"email": None}, {"status": "suspended"}, {"status": "deleted", "email": None}], ids=str
)
async def test_who_has_no_address_or_is_not_active_gets_none(
    operator: Connection, mailbox: Mailbox, columns: dict[str, Any]
) -> None:
    await event(operator, "payment.paid", await ada(operator, **columns))
    await event(operator, "payment.paid", 999_999)
    await event(operator, "payment.paid", None)
    assert await again(operator) == {"sent": 0, "failed": 0}
    assert mailbox.mails == []


@pytest.mark.usefixtures("mailbox")
@pytest.mark.parametrize("preference", ["key_events", "low_balance", "usage_report"])
async def test_preferences_decide_about_their_kinds_and_no_other(operator: Connection, preference: str) -> None:
    user_id = await ada(operator)
    wanted = dict.fromkeys(("key_events", "low_balance", "usage_report"), True) | {preference: False}
    await call("set_preferences", user_id=user_id, changes=wanted, actor=ACTOR)
    mailed = sorted(set(letters.EVENTS) - {"security.alert", "account.recovery"})
    for name in mailed:
        await event(operator, name, user_id)
    told = await outbox.send()
    assert told["sent"] == len([name for name in mailed if PREFERENCES.get(name) != preference])


async def test_what_is_not_wanted_any_more_is_not_sent(operator: Connection, mailbox: Mailbox) -> None:
    user_id = await ada(operator)
    await event(operator, "key.created", user_id)
    mailbox.refusals = [(500, "internal_server_error")]
    assert await outbox.send() == {"sent": 0, "failed": 1}
    await call("set_preferences", user_id=user_id, changes={"key_events": False}, actor=ACTOR)
    assert await again(operator) == {"sent": 0, "failed": 0}
    delivery = await operator.fetchrow("select * from gateway.deliveries")
    assert delivery is not None
    assert (delivery["reason"], delivery["sent_at"]) == ("withdrawn", None)
    assert (await call("monitor", hours=1))["outbox_failed"] == 0
    assert mailbox.mails == []


async def test_without_a_key_no_mail_is_sent_and_events_stay(
    operator: Connection, mailbox: Mailbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    user_id = await ada(operator)
    for name in ("user.created", "payment.paid"):
        await event(operator, name, user_id)
    mailbox.believed(monkeypatch, RESEND_API_KEY="")
    before = await operator.fetch("select id, to_mail from gateway.outbox order by id")
    assert await outbox.send() == {"sent": 0, "failed": 0}
    assert await operator.fetch("select id, to_mail from gateway.outbox order by id") == before
    assert (await dump(operator))["gateway.deliveries"] == []
    mailbox.believed(monkeypatch)
    assert await outbox.send() == {"sent": 2, "failed": 0}


async def test_who_turns_mail_on_does_not_send_what_nobody_waits_for(operator: Connection, mailbox: Mailbox) -> None:
    user_id = await ada(operator)
    await event(operator, "user.created", user_id)
    await operator.execute("update gateway.outbox set created_at = now() - interval '4 days'")
    await event(operator, "payment.paid", user_id)
    assert await outbox.send() == {"sent": 1, "failed": 0}
    assert [subject for _, subject in mailbox.taken] == ["Receipt: $50.00"]


@pytest.mark.parametrize("answer", [(429, "rate_limit_exceeded"), (500, "x"), (409, "concurrent_idempotent_requests")])
async def test_a_mail_that_is_refused_for_now_is_one_mail_later(
    operator: Connection, mailbox: Mailbox, answer: tuple[int, str]
) -> None:
    await event(operator, "user.created", await ada(operator))
    mailbox.refusals = [answer]
    assert await outbox.send() == {"sent": 0, "failed": 1}
    assert await outbox.send() == {"sent": 0, "failed": 0}, "it is not due"
    assert await again(operator) == {"sent": 1, "failed": 0}
    assert len(mailbox.mails) == 1


async def test_a_mail_that_is_refused_for_good_is_given_up(operator: Connection, mailbox: Mailbox) -> None:
    await event(operator, "user.created", await ada(operator, email="no address"))
    assert await outbox.send() == {"sent": 0, "failed": 1}
    assert await again(operator) == {"sent": 0, "failed": 0}
    delivery = await operator.fetchrow("select * from gateway.deliveries")
    assert delivery is not None
    assert (delivery["tries"], delivery["reason"]) == (1, "Resend answered 422")
    assert delivery["failed_at"] is not None
    assert mailbox.mails == []


async def test_a_mail_whose_sender_died_is_one_mail(operator: Connection, mailbox: Mailbox) -> None:
    user_id = await ada(operator)
    await event(operator, "key.created", user_id)
    assert await outbox.send() == {"sent": 1, "failed": 0}
    await operator.execute("update gateway.deliveries set sent_at = null, next_try_at = now()")  # it noted nothing
    assert await outbox.send() == {"sent": 1, "failed": 0}
    await operator.execute("update gateway.deliveries set sent_at = null, next_try_at = now()")
    await operator.execute("update gateway.users set display_name = 'Ada Lovelace'")  # and the words are others now
    assert await outbox.send() == {"sent": 1, "failed": 0}
    assert len(mailbox.mails) == 1


async def test_one_receiver_that_fails_holds_up_no_other_and_repeats_none(
    operator: Connection, mailbox: Mailbox
) -> None:
    admins = ("a@example.com", "no address", "c@example.com")
    for address in admins:
        await a_user(operator, email=address, role="admin", credit_nano=0)
    await event(operator, "security.alert", None)
    await event(operator, "account.recovery", await ada(operator), expires_at="2099-01-01T00:00:00Z", sealed="nonsense")
    assert await outbox.send() == {"sent": 2, "failed": 2}
    assert await again(operator) == {"sent": 0, "failed": 1}
    assert sorted(address for address, _ in mailbox.taken) == ["a@example.com", "c@example.com"]


async def test_runs_at_once_mail_each_event_once(operator: Connection, mailbox: Mailbox, database: Database) -> None:
    for number in range(10):
        await event(operator, "user.created", await a_user(operator, email=f"{number}@example.com", credit_nano=0))
    async with crowd(database.service, 4) as ask:
        await asyncio.gather(*(ask("fan_out", channels=["mail", "webhook"], most=7) for _ in range(4)))
    runs = await asyncio.gather(*(outbox.send() for _ in range(4)))
    assert sum(run["sent"] for run in runs) == len(mailbox.mails) == len(set(mailbox.taken)) == 10


async def test_a_recovery_that_is_over_is_not_mailed(operator: Connection, mailbox: Mailbox) -> None:
    sealed = sealing.seal("gwr_x")
    await event(operator, "account.recovery", await ada(operator), expires_at="2020-01-01T00:00:00Z", sealed=sealed)
    assert await again(operator) == {"sent": 0, "failed": 0}
    assert mailbox.mails == []
