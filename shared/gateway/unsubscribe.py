"""Links by which a mail's receiver has no more of its kind, without signing in: a user and a preference, signed."""

from __future__ import annotations

import hashlib
import hmac
import re

from gateway.errors import InvalidRequest
from gateway.settings import settings

PREFERENCES = {
    "low_balance": "mails about a low balance",
    "key_events": "mails about your API keys",
    "usage_report": "weekly usage reports",
}
"""What a link may turn off, in words."""
TOKEN = re.compile(r"([1-9][0-9]{0,18})\.([a-z_]{1,32})\.([0-9A-Za-z]+)\.([0-9a-f]{64})")


def url_for(user_id: int, preference: str) -> str:
    """The link that turns a user's preference off."""
    version, pepper = next(iter(settings.peppers.items()))
    mac = _mac(pepper.reveal(), str(user_id), preference)
    return f"{settings.api_url}/unsubscribe?token={user_id}.{preference}.{version}.{mac}"


def read(token: str) -> tuple[int, str]:
    """The user and the preference of a link that we made. Raises InvalidRequest."""
    found = TOKEN.fullmatch(token)
    pepper = settings.peppers.get(found[3]) if found else None
    if found and pepper and found[2] in PREFERENCES:
        mac = _mac(pepper.reveal(), found[1], found[2])
        if hmac.compare_digest(mac, found[4]):
            return int(found[1]), found[2]
    raise InvalidRequest("This link is not one of ours, or not all of it.", param="token")


def _mac(pepper: str, user_id: str, preference: str) -> str:
    # what is signed says what for: no key's hash and no other link can be taken for it
    return hmac.digest(pepper.encode(), f"unsubscribe\n{user_id}\n{preference}".encode(), hashlib.sha256).hex()
