"""An account as its owner has it: balance, keys, limits, activity, profile."""

from __future__ import annotations

from account.routes import router
from gateway.http.adapter import lambda_handler
from gateway.http.app import create_app

app = create_app(router)
handler = lambda_handler(app)
