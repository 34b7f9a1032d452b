"""Inference: POST /v1/chat/completions, served by gateway.http.streaming, so that bytes leave as they come.

Starlette and msgspec, not FastAPI: fewer modules to import (docs/decisions/0005).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.routing import Router

from chat.routes import routes
from gateway import database, outbound
from gateway.http.adapter import lambda_handler
from gateway.http.edge import Edge


@asynccontextmanager
async def connections(_: Router) -> AsyncIterator[None]:
    """What is slow to import is imported before the first request; what was opened is closed after the last."""
    database.prepare()
    yield
    await outbound.close()
    await database.close()


app = Edge(Router(routes, redirect_slashes=False, lifespan=connections), routes)
handler = lambda_handler(app)  # in one piece: SAM's local API, and a deploy without the streaming layer
