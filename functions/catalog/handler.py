"""The catalogue and the ranking."""

from __future__ import annotations

from catalog.routes import router
from gateway.http.adapter import lambda_handler
from gateway.http.app import create_app

app = create_app(router)
handler = lambda_handler(app)
