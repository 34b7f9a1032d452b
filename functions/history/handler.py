"""Chat history."""

from __future__ import annotations

from gateway.http.adapter import lambda_handler
from gateway.http.app import create_app
from history.routes import router

app = create_app(router)
handler = lambda_handler(app)
