"""An ASGI app without a framework, which breaks the protocol as its path says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mangum.types import Receive, Scope, Send

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
CHUNK: dict[str, Any] = {"type": "http.response.body", "body": b"chunk", "more_body": True}
LAST: dict[str, Any] = {**CHUNK, "more_body": False}
MESSAGES = {
    "silent": [],
    "unstarted": [CHUNK],
    "unfinished": [START, CHUNK],
    "twice": [START, START],
    "fine": [START, LAST],
}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        raise NotImplementedError("no lifespan here")
    await receive()
    fault = scope["path"].rpartition("/")[2]
    if fault == "raises":
        raise ValueError("before the response")
    if fault == "cancelled":
        raise asyncio.CancelledError
    for message in MESSAGES[fault]:
        await send(message)
