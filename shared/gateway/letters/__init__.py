"""Mails: what is written to users about an event. The same event makes the same mail, whenever it is written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gateway import unsubscribe
from gateway.letters.layout import Block, Link, Words, as_html, as_text
from gateway.letters.texts import TEXTS, line
from gateway.mail import Letter

EVENTS = tuple(TEXTS)


def write(event: str, payload: Mapping[str, Any], *, name: str, user_id: int, preference: str | None) -> Letter:
    """The mail to a user about an event; where a preference decides about its kind, with a link that turns that off.

    Raises KeyError for an event that is no mail's, or a payload that lacks what has to be said.
    """
    subject, said = TEXTS[event](payload)
    blocks: list[Block] = [Words(f"Hello {line(name)},"), *said]
    footer: list[Block] = [Words("You get this mail because you have an account at Gatewayz.")]
    url = unsubscribe.url_for(user_id, preference) if preference else None
    if preference and url:
        footer.append(Link(f"No more {unsubscribe.PREFERENCES[preference]}", url))
    return Letter(subject, as_html(subject, blocks, footer), as_text(blocks, footer), url)
