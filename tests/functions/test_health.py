"""GET /health and /ping: whether the gateway works, told to anybody, without a word about users."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from gateway import VERSION

if TYPE_CHECKING:
    from tests.harness.gateway import InProcess


async def test_healthy(gateway: InProcess):
    response = await gateway.client.get("/health")
    told = response.json()
    assert response.status_code == 200
    assert datetime.fromisoformat(told.pop("timestamp")).tzinfo is not None
    assert told == {"status": "healthy", "version": VERSION, "database": "connected"}


async def test_unhealthy_without_the_database(gateway: InProcess):
    gateway.line.cut = {"health"}
    response = await gateway.client.get("/health")
    told = response.json()
    assert (response.status_code, told["status"], told["database"]) == (503, "unhealthy", "unreachable")
    assert "x-request-id" in response.headers
    gateway.line.cut.clear()
    assert (await gateway.client.get("/health")).status_code == 200


async def test_ping_asks_nobody(gateway: InProcess):
    first, second = [(await gateway.client.get("/ping")).json() for _ in range(2)]
    assert first.keys() == {"status", "message", "count", "timestamp", "uptime", "version"}
    assert (first["status"], first["message"], first["version"]) == ("pong", "pong", VERSION)
    assert second["count"] == first["count"] + 1
    assert second["uptime"] >= first["uptime"] >= 0
    assert gateway.line.calls == []
