"""The outbox: events on their way to others, at least once, each under an id that stays.

Security alerts go to ALERT_WEBHOOK_URL as https://www.standardwebhooks.com says. A receiver tells a repetition by
`webhook-id`, and us by `webhook-signature`. Events of kinds that nobody sends stay where they are.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
import ipaddress
import secrets
import socket
import time
from typing import Any

import httpx
import msgspec

from gateway import database, telemetry
from gateway.settings import Secret, settings

ALERT = "security.alert"
MOST_EVENTS = 20
"""Events that one run sends, at the same time."""
SEND_S = 10.0
"""For one delivery, from the address's look-up to the answer's status."""
LEASE_S = 120
"""How long a sender has its events for itself: longer than a run of the job can take."""
MOST_TRIES = 12
WAIT_S = 60
MOST_WAIT_S = 6 * 3600
"""A failed event waits a minute, and twice as long after each try; it is given up within two days."""
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""Addresses that lead to IPv4 ones, also to private ones."""


class Undelivered(Exception):
    """An event did not reach its receiver; the text is a reason that may be logged."""


async def send() -> dict[str, int]:
    """Send the events that are due. Two that run at once send different ones."""
    if not (url := settings.alerts.webhook_url) or not (secret := settings.alerts.webhook_secret):
        return {"sent": 0, "failed": 0}
    due = await database.call("claim_events", events=[ALERT], most=MOST_EVENTS, lease_s=LEASE_S)
    async with httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=SEND_S) as client:
        delivered = await asyncio.gather(*(_send(client, url, secret, event) for event in due))
    return {"sent": sum(delivered), "failed": len(due) - sum(delivered)}


async def _send(client: httpx.AsyncClient, url: str, secret: Secret, event: dict[str, Any]) -> bool:
    """Deliver one event and note what came of it."""
    try:
        async with asyncio.timeout(SEND_S):
            await _deliver(client, url, secret, event)
    except (Undelivered, httpx.HTTPError, OSError) as error:
        tries = event["tries"]
        wait_s = None if tries + 1 >= MOST_TRIES else _wait_s(tries)
        reason = str(error) if isinstance(error, Undelivered) else type(error).__name__
        telemetry.log("event_not_sent", level="WARNING", event_id=event["id"], tries=tries + 1, reason=reason)
        await database.call("event_failed", event_id=event["id"], tries=tries, wait_s=wait_s)
        return False
    await database.call("event_sent", event_id=event["id"])
    return True


async def _deliver(client: httpx.AsyncClient, url: str, secret: Secret, event: dict[str, Any]) -> None:
    """POST one event. Raises Undelivered, httpx.HTTPError and OSError (a TimeoutError is one)."""
    target = httpx.URL(url)
    address = await _address(target)
    body = msgspec.json.encode({"type": event["event"], "timestamp": event["created_at"], "data": event["payload"]})
    headers = {
        **signed(secret, f"evt_{event['id']}", int(time.time()), body),
        "content-type": "application/json",
        "host": target.netloc.decode(),
    }
    # the address that was looked at is the one that is asked; the certificate is still the name's
    request = client.build_request(
        "POST", target.copy_with(host=address), content=body, headers=headers, extensions={"sni_hostname": target.host}
    )
    response = await client.send(request, stream=True)
    await response.aclose()
    if not response.is_success:
        raise Undelivered(f"status {response.status_code}")


async def _address(target: httpx.URL) -> str:
    """An address of the receiver that the gateway may speak to: public, or this machine in the stage `dev`.

    Raises Undelivered if one of its addresses is not, and OSError when it has none.
    """
    port = target.port or (443 if target.scheme == "https" else 80)
    found = await asyncio.get_running_loop().getaddrinfo(target.host, port, type=socket.SOCK_STREAM)
    addresses = [ipaddress.ip_address(entry[4][0]) for entry in found]
    is_here = settings.stage == "dev" and all(address.is_loopback for address in addresses)
    if not is_here and (target.scheme != "https" or not all(map(is_public, addresses))):
        raise Undelivered("the webhook's address is not public, or not https")
    return str(addresses[0])


def is_public(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is of the internet, and not of a network behind it."""
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    seen = mapped or address
    return seen.is_global and not seen.is_multicast and seen not in NAT64


def signed(secret: Secret, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers by which a receiver knows an event and its sender. A secret is `whsec_` and base64, or any text."""
    digest = hmac.new(_key(secret.reveal()), f"{event_id}.{timestamp}.".encode() + body, hashlib.sha256).digest()
    return {
        "webhook-id": event_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }


def _key(secret: str) -> bytes:
    if secret.startswith("whsec_"):
        try:
            return base64.b64decode(secret.removeprefix("whsec_"), validate=True)
        except binascii.Error:
            raise Undelivered("ALERT_WEBHOOK_SECRET is not base64 after whsec_") from None
    return secret.encode()


def _wait_s(tries: int) -> int:
    """Seconds until the next try, the longer half of them by chance: those that failed together come apart."""
    longest: int = min(MOST_WAIT_S, WAIT_S * 2**tries)
    return longest // 2 + secrets.randbelow(longest // 2 + 1)
