"""The operator's routes: users, credits, limits, roles, usage, audit, alerts."""

from __future__ import annotations

from admin.routes import router
from gateway.http.adapter import lambda_handler
from gateway.http.app import create_app

app = create_app(router)
handler = lambda_handler(app)
