"""The outbox: events on their way to others, each to each of its receivers, at least once, under an id that stays.

By mail to users (gateway.letters says which events), by webhook to their programs (POST /user/webhooks); to the
operator security alerts by webhook (ALERT_WEBHOOK_URL), and all that happened on his bus (EVENT_BUS_NAME). What is
not set up is left as it is; events of kinds that nobody sends stay where they are.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import httpx
import msgspec

from gateway import database, event_bus, letters, mail, money, sealing, telemetry
from gateway.posting import Undelivered, post, signed
from gateway.settings import Secret, settings

ALERT = "security.alert"
MOST_FANNED_OUT = 1000
MOST_ROUNDS = 10
"""Events of which deliveries are made at once, for each channel, and how often a run does it."""
MOST_EVENTS = 20
"""Deliveries that are sent at the same time; of one webhook, of one user and of slow ones fewer (api.shares)."""
MOST_MAILS = 2
MAILS_S = 1.0
"""Mails at the same time, and for how long no further one follows: Resend takes two a second."""
SEND_S = 10.0
"""For one delivery, from the address's look-up to the answer's status."""
RUN_S = 35.0
"""After which a run begins no further delivery."""
LEASE_S = 120
"""How long a sender has its events for itself: longer than a run of the job can take."""
MOST_TRIES = 12
WAIT_S = 60
MOST_WAIT_S = 6 * 3600
"""A failed event waits a minute, and twice as long after each try; it is given up within two days."""

type Delivery = dict[str, Any]
type Deliver = Callable[[httpx.AsyncClient, Delivery], Awaitable[None]]


async def send() -> dict[str, int]:
    """Make deliveries of the events that wait, and send those that are due. Two runs at once send different ones."""
    ways = _ways()
    for _ in range(MOST_ROUNDS):
        taken = await database.call("fan_out", channels=list(ways), most=MOST_FANNED_OUT)
        if max(taken.values()) < MOST_FANNED_OUT:
            break
    until = time.monotonic() + RUN_S
    async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=SEND_S) as client:
        counts = await asyncio.gather(*(_work(client, channel, deliver, until) for channel, deliver in ways.items()))
    return {"sent": sum(sent for sent, _ in counts), "failed": sum(failed for _, failed in counts)}


def _ways() -> Mapping[str, Deliver]:
    """How each channel delivers that is set up here."""
    alerts = settings.alerts
    ways: dict[str, Deliver] = {}
    if alerts.webhook_url and alerts.webhook_secret:
        ways["alert"] = _deliver_alert
    if settings.mail:
        ways["mail"] = _deliver_mail
    if settings.sealing_keys:
        ways["webhook"] = _deliver_to_webhook
    if settings.event_bus:
        ways["bus"] = _deliver_to_bus
    return ways


async def _work(client: httpx.AsyncClient, channel: str, deliver: Deliver, until: float) -> tuple[int, int]:
    """Send what is due of a channel, some at a time; how many were taken, and how many were not.

    A place that becomes free is given to the next delivery at once: nobody waits for the slowest.
    """
    sent = failed = begun = 0
    running: set[asyncio.Task[bool]] = set()
    most, pause_s = (MOST_MAILS, MAILS_S) if channel == "mail" else (MOST_EVENTS, 0.0)
    while running or time.monotonic() < until:
        if time.monotonic() < until and len(running) < most:
            due = await database.call("claim_deliveries", channel=channel, most=most - len(running), lease_s=LEASE_S)
            running |= {asyncio.create_task(_send(client, deliver, delivery)) for delivery in due}
            begun += len(due)
        if not running:
            break
        done, running = await asyncio.wait(
            running, return_when=asyncio.ALL_COMPLETED if pause_s else asyncio.FIRST_COMPLETED
        )
        outcomes = [task.result() for task in done]
        sent, failed = sent + sum(outcomes), failed + len(outcomes) - sum(outcomes)
        if begun >= most:
            begun = 0
            await asyncio.sleep(pause_s)
    return sent, failed


async def _send(client: httpx.AsyncClient, deliver: Deliver, delivery: Delivery) -> bool:
    """Deliver one event to one receiver and note what came of it."""
    began = time.monotonic()
    try:
        async with asyncio.timeout(SEND_S):
            await deliver(client, delivery)
    except Exception as error:  # noqa: BLE001 - an event that cannot even be told holds up no other
        await _note_failure(delivery, error, _ms_since(began))
        return False
    await database.call("delivery_sent", delivery_id=delivery["id"], took_ms=_ms_since(began))
    return True


def _ms_since(began: float) -> int:
    return round(1000 * (time.monotonic() - began))


async def _note_failure(delivery: Delivery, error: Exception, took_ms: int) -> None:
    tries, is_hopeless = delivery["tries"], isinstance(error, Undelivered) and error.hopeless
    wait_s = None if is_hopeless or tries + 1 >= MOST_TRIES else _wait_s(tries)
    reason = str(error) if isinstance(error, Undelivered) else type(error).__name__
    telemetry.log(
        "event_not_sent", level="WARNING", event_id=delivery["event_id"], delivery_id=delivery["id"], tries=tries + 1,
        reason=reason,
    )  # fmt: skip
    await database.call(
        "delivery_failed", delivery_id=delivery["id"], tries=tries, wait_s=wait_s, reason=reason, took_ms=took_ms
    )


async def _deliver_alert(client: httpx.AsyncClient, delivery: Delivery) -> None:
    """To the operator's own webhook. Raises as `post` does."""
    url, secret = settings.alerts.webhook_url, settings.alerts.webhook_secret
    if url and secret:
        await _deliver(client, url, secret, delivery, delivery["payload"])


async def _deliver_to_webhook(client: httpx.AsyncClient, delivery: Delivery) -> None:
    """To a user's webhook; amounts are told in dollars. Raises as `post` does."""
    receiver, payload = delivery["receiver"], delivery["payload"]
    told = {
        f"{name.removesuffix('_nano')}_usd" if name.endswith("_nano") else name: money.show(value)
        if name.endswith("_nano")
        else value
        for name, value in payload.items()
    }
    await _deliver(
        client, receiver["url"], Secret(sealing.unseal(receiver["sealed"])), delivery, told, receiver["user_id"]
    )


async def _deliver(
    client: httpx.AsyncClient,
    url: str,
    secret: Secret,
    delivery: Delivery,
    told: Mapping[str, Any],
    whose: int | None = None,
) -> None:
    body = msgspec.json.encode({"type": delivery["event"], "timestamp": delivery["created_at"], "data": told})
    headers = signed(secret, f"evt_{delivery['event_id']}", int(time.time()), body)
    await post(client, url, body, headers, whose)


async def _deliver_to_bus(_client: httpx.AsyncClient, delivery: Delivery) -> None:
    """To the operator's event bus. Raises Undelivered."""
    await event_bus.put(delivery["event_id"], delivery["event"], delivery["created_at"], delivery["payload"])


async def _deliver_mail(client: httpx.AsyncClient, delivery: Delivery) -> None:
    """To a user's address, by Resend. Raises as `mail.send` does."""
    if settings.mail:
        receiver, user_id = delivery["receiver"], delivery["target"]
        letter = letters.write(
            delivery["event"], delivery["payload"], name=receiver["name"], user_id=user_id,
            preference=receiver["preference"],
        )  # fmt: skip
        # the event's id and whom it is for: an alert is a mail to each admin
        await mail.send(client, settings.mail, receiver["address"], letter, f"evt_{delivery['event_id']}/{user_id}")


def _wait_s(tries: int) -> int:
    """Seconds until the next try, the longer half of them by chance: those that failed together come apart."""
    longest: int = min(MOST_WAIT_S, WAIT_S * 2**tries)
    return longest // 2 + secrets.randbelow(longest // 2 + 1)
