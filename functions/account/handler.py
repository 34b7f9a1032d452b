"""A key's own view of its account: GET /v1/key, /v1/credits."""

from __future__ import annotations

from account.routes import router
from gateway.http.adapter import lambda_handler
from gateway.http.app import create_app

app = create_app(router)
handler = lambda_handler(app)
