"""POST to those who want to be told: to an address that was looked at, never to a network behind the internet, and
signed as https://www.standardwebhooks.com says: a receiver tells a repetition by `webhook-id`, us by the signature.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Hashable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gateway import addresses
from gateway.settings import Secret, settings

if TYPE_CHECKING:
    import httpx

HTTPS = 443
FIRST_FREE_PORT = 1024
"""Below it are ports of mail, of directories and of machines' own management, which no receiver of ours is behind."""


class Undelivered(Exception):
    """Something did not reach its receiver; the text is a reason that may be logged and shown to the receiver's owner.

    `hopeless`: another try would fail as this one did.
    """

    def __init__(self, reason: str, *, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.hopeless = hopeless


async def post(
    client: httpx.AsyncClient, url: str, body: bytes, headers: dict[str, str], whose: Hashable = None
) -> None:
    """POST to a public address, or to this machine in the stage `dev`; `whose` it is as for `public_address`.

    Raises Undelivered, httpx.HTTPError and OSError (a TimeoutError is one).
    """
    import httpx  # noqa: PLC0415 - who only looks at an address does without

    target = httpx.URL(url)
    address = await public_address(url, whose)
    headers = {**headers, "content-type": "application/json", "host": target.netloc.decode()}
    # the address that was looked at is the one that is asked; the certificate is still the name's
    request = client.build_request(
        "POST", target.copy_with(host=address), content=body, headers=headers, extensions={"sni_hostname": target.host}
    )
    response = await client.send(request, stream=True)
    await response.aclose()
    if not response.is_success:
        raise Undelivered(f"status {response.status_code}")


async def public_address(url: str, whose: Hashable = None) -> str:
    """An address of the receiver that the gateway may speak to: public and at port 443 or one above 1023, or this
    machine in the stage `dev`. `whose` it is has one look-up at a time; without it the name has.

    Raises Undelivered if one of its addresses is not, and OSError when it has none or nobody says.
    """
    parts = urlsplit(url)
    port = parts.port or (HTTPS if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    found = await addresses.look_up(host, port, host if whose is None else whose)
    is_here = settings.stage == "dev" and all(address.is_loopback for address in found)
    if not is_here and (parts.scheme != "https" or not all(map(addresses.is_public, found))):
        raise Undelivered("the webhook's address is not public, or not https")
    if not is_here and port != HTTPS and port < FIRST_FREE_PORT:
        raise Undelivered("the webhook's port is neither 443 nor above 1023")
    return str(found[0])


def signed(secret: Secret, event_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers by which a receiver knows an event and its sender. A secret is `whsec_` and base64, or any text.

    Raises Undelivered for a secret that cannot be read.
    """
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
            raise Undelivered("the secret is not base64 after whsec_") from None
    return secret.encode()
