"""Domain events on the operator's bus: taken by EventBridge's own double, once each, and only what may be told."""

from __future__ import annotations

import json
import re
import secrets
from typing import TYPE_CHECKING, Any

import msgspec
import pytest

from gateway import aws, event_bus, outbox, settings
from local.schema import SUPABASE
from tests.database.test_outbox import an_event
from tests.harness.builders import a_caller
from tests.harness.cloud import REGION, client
from tests.harness.upstream import Upstream, whole

if TYPE_CHECKING:
    from tests.harness.builders import Connection

pytestmark = pytest.mark.usefixtures("service")
NOT_FOR_THE_BUS = {"account.recovery", "webhook.test", "usage.report"}


class Bus:
    """An event bus with a rule that sends everything to a queue."""

    def __init__(self, endpoint: str) -> None:
        self.name = f"bus-{secrets.token_hex(4)}"
        self._queues, events = client("sqs", endpoint), client("events", endpoint)
        self._url = self._queues.create_queue(QueueName=self.name)["QueueUrl"]
        arn = self._queues.get_queue_attributes(QueueUrl=self._url, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        events.create_event_bus(Name=self.name)
        events.put_rule(Name="all", EventBusName=self.name, EventPattern='{"source": ["gatewayz"]}')
        events.put_targets(Rule="all", EventBusName=self.name, Targets=[{"Id": "queue", "Arn": arn}])

    def heard(self) -> list[dict[str, Any]]:
        """The events since the last look."""
        found = self._queues.receive_message(QueueUrl=self._url, MaxNumberOfMessages=10).get("Messages", [])
        for message in found:
            self._queues.delete_message(QueueUrl=self._url, ReceiptHandle=message["ReceiptHandle"])
        return [json.loads(message["Body"]) for message in found]


@pytest.fixture
def bus(cloud: str, monkeypatch: pytest.MonkeyPatch) -> Bus:
    heard = Bus(cloud)
    account = aws.Account(REGION, "AKID", "x", "", {"events": cloud})
    named = msgspec.structs.replace(settings.settings, event_bus=heard.name, aws=account, sealing_keys=[])
    for module in (outbox, event_bus):
        monkeypatch.setattr(module, "settings", named)
    return heard


async def test_what_happens_is_put_on_the_bus_once(operator: Connection, bus: Bus):
    caller = await a_caller(operator)
    assert (await outbox.send())["failed"] == 0
    (told,) = [event for event in bus.heard() if event["detail-type"] == "credits.granted"]
    event_id = await operator.fetchval("select id from gateway.outbox where event = 'credits.granted'")
    assert told["source"] == "gatewayz"
    assert told["detail"]["id"] == f"evt_{event_id}"
    assert (told["detail"]["user_id"], told["detail"]["stage"]) == (caller.user_id, "dev")
    await outbox.send()
    assert bus.heard() == []


@pytest.mark.parametrize("event", sorted(NOT_FOR_THE_BUS))
async def test_what_is_for_one_person_stays_off_the_bus(operator: Connection, bus: Bus, event: str):
    await an_event(operator, event, sealed="of one's own")
    await outbox.send()
    assert bus.heard() == []


async def test_old_events_are_not_told_to_a_bus_that_is_turned_on(operator: Connection, bus: Bus):
    await an_event(operator, "user.created")
    await operator.execute("update gateway.outbox set created_at = now() - interval '4 days'")
    await outbox.send()
    assert bus.heard() == []


async def test_a_bus_that_is_away_is_tried_again(operator: Connection, bus: Bus, monkeypatch: pytest.MonkeyPatch):
    await an_event(operator, "user.created", user_id=1)
    there = event_bus.settings.aws  # type: ignore[attr-defined]
    away = aws.Account(REGION, "AKID", "x", "", {"events": "http://127.0.0.1:1"})
    monkeypatch.setattr(event_bus, "settings", msgspec.structs.replace(event_bus.settings, aws=away))  # type: ignore[attr-defined]
    assert (await outbox.send())["failed"] == 1
    await operator.execute("update gateway.deliveries set next_try_at = now()")
    monkeypatch.setattr(event_bus, "settings", msgspec.structs.replace(event_bus.settings, aws=there))  # type: ignore[attr-defined]
    assert await outbox.send() == {"sent": 1, "failed": 0}
    assert [event["detail-type"] for event in bus.heard()] == ["user.created"]


async def test_an_event_that_the_bus_refuses_is_not_sent(
    operator: Connection, bus: Bus, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
):
    """EventBridge answers 200, and says in the body what it did not take."""
    assert bus.name
    upstream.will(whole(b'{"FailedEntryCount": 1, "Entries": [{"ErrorCode": "InternalFailure"}]}'))
    refusing = aws.Account(REGION, "AKID", "x", "", {"events": upstream.url})
    monkeypatch.setattr(event_bus, "settings", msgspec.structs.replace(event_bus.settings, aws=refusing))  # type: ignore[attr-defined]
    await an_event(operator, "user.created")
    assert (await outbox.send())["failed"] == 1


async def test_every_event_of_the_product_is_decided_on(operator: Connection):
    """An event is for the bus, or named here as one that is not."""
    sources = "\n".join(path.read_text() for path in (SUPABASE / "api").glob("*.sql"))
    inserts = re.findall(r"insert into gateway\.outbox[^;]*", sources)
    written = set(re.findall(r"'([a-z]+\.[a-z_]+)'", "\n".join(inserts)))
    assert len(written) > 15
    assert written - NOT_FOR_THE_BUS <= set(await operator.fetchval("select api.bus_events()"))
