"""Mail, by Resend (https://resend.com/docs/api-reference/emails/send-email): the one door.

An Idempotency-Key that stays with the mail makes it one mail however often it is handed over within 24 hours.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from gateway.posting import Undelivered
from gateway.settings import MailSettings

if TYPE_CHECKING:
    import httpx

REFUSED_FOR_GOOD = {400, 413, 422}
"""What Resend says of a mail that it will not take: it will not at the next try, either."""


class Letter(msgspec.Struct, frozen=True):
    """A mail without its address: what is read, and by which link its receiver can have no more of its kind."""

    subject: str
    html: str
    text: str
    unsubscribe_url: str | None = None


async def send(client: httpx.AsyncClient, mail: MailSettings, address: str, letter: Letter, key: str) -> None:
    """Hand one mail to Resend, once per `key`. Raises Undelivered, httpx.HTTPError and OSError."""
    body: dict[str, Any] = {
        "from": mail.sender, "to": [address], "subject": letter.subject, "html": letter.html, "text": letter.text,
    }  # fmt: skip
    if letter.unsubscribe_url:
        # RFC 8058: mail programs show a button of their own
        body["headers"] = {
            "List-Unsubscribe": f"<{letter.unsubscribe_url}>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
        }
    headers = {
        "authorization": f"Bearer {mail.key.reveal()}", "idempotency-key": key, "content-type": "application/json",
    }  # fmt: skip
    response = await client.post(f"{mail.base_url}/emails", content=msgspec.json.encode(body), headers=headers)
    if not response.is_success and not _was_sent(response):
        raise Undelivered(f"Resend answered {response.status_code}", hopeless=response.status_code in REFUSED_FOR_GOOD)


def _was_sent(response: httpx.Response) -> bool:
    """Whether a refusal says that the mail of this key was taken before, with words that have changed since."""
    try:
        told = msgspec.json.decode(response.content, type=dict[str, Any])
    except msgspec.DecodeError:
        return False
    return response.status_code == 409 and told.get("name") == "invalid_idempotent_request"
