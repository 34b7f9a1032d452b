"""Inference: POST /v1/chat/completions. Served by gateway.http.streaming, so that bytes leave as they come.

Starlette and msgspec, not FastAPI: half the modules to import (docs/decisions/0005).
"""

from __future__ import annotations

from starlette.routing import Router

from chat.routes import routes
from gateway.http.edge import Edge

app = Edge(Router(routes, redirect_slashes=False), routes)
