"""Deliveries in fair shares: an account with many, or with slow receivers, waits for these alone."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from gateway import outbox, sealing
from gateway.database import call
from local.mail import SAMPLES
from tests.harness.builders import a_user
from tests.harness.gateway import eventually, listening
from tests.harness.receiver import Receiver

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from tests.harness.builders import Connection
    from tests.harness.mailbox import Mailbox

pytestmark = pytest.mark.usefixtures("service")


class Slow(Receiver):
    """A receiver that answers nothing at /slow until it is let; `most` were at work there at once."""

    def __init__(self) -> None:
        super().__init__()
        self.let = asyncio.Event()
        self.working = self.most = 0

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        if scope["path"].startswith("/slow"):
            self.working += 1
            self.most = max(self.most, self.working)
            await self.let.wait()
            self.working -= 1
        await super().__call__(scope, receive, send)


async def a_webhook(operator: Connection, user_id: int, url: str = "https://example.com/", last_ms: int = 0) -> int:
    statement = (
        "insert into gateway.webhooks (user_id, url, events, sealed, last_ms, created_at)"
        " values ($1, $2, '{key.paused}', $3, $4, now() - interval '1 hour') returning id"
    )
    webhook_id: int = await operator.fetchval(statement, user_id, url, sealing.seal("whsec_eA=="), last_ms)
    return webhook_id


async def happens(
    operator: Connection, user_id: int, count: int = 1, event: str = "key.paused", **payload: Any
) -> None:
    await operator.execute(
        "insert into gateway.outbox (event, payload) select $1, $2 from generate_series(1, $3)",
        event, json.dumps({**SAMPLES.get(event, {}), "user_id": user_id, **payload}), count,
    )  # fmt: skip


async def claimed(channel: str = "webhook", most: int = 20) -> list[dict[str, Any]]:
    await call("fan_out", channels=[channel], most=1000)
    found: list[dict[str, Any]] = await call("claim_deliveries", channel=channel, most=most, lease_s=60)
    return found


async def test_a_slow_webhook_holds_up_nobody_elses(operator: Connection) -> None:
    greedy, other = [await a_user(operator, credit_nano=0) for _ in range(2)]
    receiver = Slow()
    async with listening(receiver) as url:
        for number in range(10):
            await a_webhook(operator, greedy, f"{url}/slow{number}")
        await a_webhook(operator, other, f"{url}/other")
        await happens(operator, greedy, 30)
        await happens(operator, other)
        running = asyncio.create_task(outbox.send())

        async def came() -> bool:
            return "/other" in [path for path, *_ in receiver.came]

        async def all_busy() -> bool:
            return receiver.working == 4

        assert await eventually(came), "while the slow ones are under way"
        assert await eventually(all_busy)
        assert receiver.most == 4
        receiver.let.set()
        assert await running == {"sent": 301, "failed": 0}


async def test_one_webhook_has_two_deliveries_under_way(operator: Connection) -> None:
    user_id = await a_user(operator, credit_nano=0)
    hook = await a_webhook(operator, user_id)
    await happens(operator, user_id, 10)
    first = await claimed()
    assert [each["target"] for each in first] == [hook] * 2
    assert await claimed() == []
    await call("delivery_sent", delivery_id=first[0]["id"], took_ms=5)
    await call("delivery_failed", delivery_id=first[1]["id"], tries=0, wait_s=60, reason="status 500", took_ms=5)
    assert len(await claimed()) == 2


async def test_slow_ones_share_five_places_until_they_are_quick(operator: Connection) -> None:
    hooks = {}
    for _ in range(8):
        user_id = await a_user(operator, credit_nano=0)
        hooks[await a_webhook(operator, user_id, last_ms=2000)] = user_id
        await happens(operator, user_id, 2)
    quick = await a_user(operator, credit_nano=0)
    hook = await a_webhook(operator, quick)
    await happens(operator, quick, 2)
    taken = await claimed()
    assert Counter(each["target"] == hook for each in taken) == {False: 5, True: 2}
    assert len({each["target"] for each in taken}) == 6, "each slow one has one before any has two"
    await call("delivery_sent", delivery_id=next(each["id"] for each in taken if each["target"] != hook), took_ms=10)
    assert await operator.fetchval("select count(*) from gateway.webhooks where last_ms >= 2000") == 7
    await call("delivery_sent", delivery_id=next(each["id"] for each in taken if each["target"] == hook), took_ms=2500)
    assert await operator.fetchval("select last_ms from gateway.webhooks where id = $1", hook) == 2500


async def test_what_waits_for_a_webhook_that_is_gone_is_withdrawn(operator: Connection) -> None:
    user_id, other = [await a_user(operator, credit_nano=0) for _ in range(2)]
    gone, off = await a_webhook(operator, user_id), await a_webhook(operator, user_id)
    left = await a_webhook(operator, other)
    await happens(operator, user_id, 30)
    await happens(operator, other)
    await call("fan_out", channels=["webhook"], most=1000)
    await call("delete_webhook", webhook_id=gone, user_id=user_id, actor={"name": "test", "request_id": "r"})
    withdrawn = "select count(*) from gateway.deliveries where target = $1 and reason = 'withdrawn'"
    assert await operator.fetchval(withdrawn, gone) == 30
    await operator.execute("update gateway.webhooks set is_active = false where id = $1", off)
    assert [each["target"] for each in await claimed()] == [left]
    assert await claimed() == []
    assert await operator.fetchval(withdrawn, off) == 30


async def test_a_recovery_goes_before_a_flood_of_other_mails(operator: Connection, mailbox: Mailbox) -> None:
    for number in range(3):
        user_id = await a_user(operator, credit_nano=0, email=f"{number}@example.com")
        await happens(operator, user_id, 1200, "key.created")
    lost = await a_user(operator, credit_nano=0, email="lost@example.com")
    await happens(operator, lost, 30, "key.created")
    sealed, ends = sealing.seal("gwr_x"), "2099-01-01T00:00:00Z"
    await happens(operator, lost, 1, "account.recovery", sealed=sealed, expires_at=ends)
    (first, *_) = await claimed("mail", 2)
    assert first["event"] == "account.recovery"
    assert mailbox.mails == []


async def test_a_day_has_twenty_mails_of_a_kind_for_a_user(operator: Connection) -> None:
    busy = await a_user(operator, credit_nano=0, email="busy@example.com")
    other = await a_user(operator, credit_nano=0, email="other@example.com")
    for count in (15, 15):
        await happens(operator, busy, count, "key.created")
        await call("fan_out", channels=["mail"], most=1000)
    await happens(operator, busy, 1, "payment.paid")
    await happens(operator, other, 1, "key.created")
    await call("fan_out", channels=["mail"], most=1000)
    made = (
        "select d.target, o.event, count(*) from gateway.deliveries d join gateway.outbox o on o.id = d.event_id"
        " group by 1, 2"
    )
    assert {tuple(row) for row in await operator.fetch(made)} == {
        (busy, "key.created", 20), (busy, "payment.paid", 1), (other, "key.created", 1),
    }  # fmt: skip
    await operator.execute("update gateway.deliveries set created_at = now() - interval '25 hours'")
    await happens(operator, busy, 1, "key.created")
    await call("fan_out", channels=["mail"], most=1000)
    assert await operator.fetchval("select count(*) from gateway.deliveries where target = $1", busy) == 22
