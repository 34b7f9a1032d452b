"""An ASGI app without a framework, which breaks the protocol as its path says."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mangum.types import Receive, Scope, Send

START: dict[str, Any] = {"type": "http.response.start", "status": 200, "headers": []}
CHUNK: dict[str, Any] = {"type": "http.response.body", "body": b"chunk", "more_body": True}


async def app(scope: Scope, receive: Receive, send: Send) -> None:
    if scope["type"] != "http":
        raise NotImplementedError("no lifespan here")
    await receive()
    match scope["path"].rpartition("/")[2]:
        case "silent":
            return
        case "raises":
            raise ValueError("before the response")
        case "unfinished":
            await send(START)
            await send(CHUNK)
        case "unstarted":
            await send(CHUNK)
        case "twice":
            await send(START)
            await send(START)
        case "cancelled":
            raise asyncio.CancelledError
        case "fine":
            await send(START)
            await send({**CHUNK, "more_body": False})
