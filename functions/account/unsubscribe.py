"""Unsubscribing by a mail's link: a page that asks, as scanners follow links too, and the one click of RFC 8058."""

from __future__ import annotations

from html import escape
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from gateway import accounts, unsubscribe
from gateway.http.bearer import address_of
from gateway.http.body import StrictRoute

router = APIRouter(route_class=StrictRoute)
type Token = Annotated[str, Query(min_length=1, max_length=200)]

POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
HEADERS = {"content-security-policy": POLICY, "referrer-policy": "no-referrer"}
STYLE = "font:17px/1.5 system-ui,sans-serif;max-width:32rem;margin:4rem auto;padding:0 1rem;color:#1f2933"


def _page(words: str, button: str = "") -> Response:
    form = f'<form method="post"><button style="font:inherit">{escape(button)}</button></form>' if button else ""
    page = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>Gatewayz</title></head>'
        f'<body style="{STYLE}"><p>{escape(words)}</p>{form}</body></html>'
    )
    return Response(page, media_type="text/html; charset=utf-8", headers=HEADERS)


@router.get("/unsubscribe")
async def show_unsubscribing(token: Token) -> Response:
    """Ask whether the mails that the link names shall end; nothing is changed by looking."""
    _, preference = unsubscribe.read(token)
    return _page(f"Do you want to have no more {unsubscribe.PREFERENCES[preference]}?", "Yes, no more")


@router.post("/unsubscribe")
async def turn_off(token: Token, request: Request) -> Response:
    """End the mails that the link names."""
    ended = await accounts.turn_off(token, address_of(request), request.scope["request_id"])
    return _page(f"You get no more {ended}. You can turn them on again in your account's preferences.")
