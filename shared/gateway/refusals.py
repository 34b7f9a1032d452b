"""Refused credentials, counted: what an operator looks at when somebody tries keys."""

from __future__ import annotations

from gateway import database, telemetry
from gateway.errors import GatewayError


async def count(refusal: GatewayError, ip: str | None, subject: str) -> None:
    """Count one refusal of a well-formed credential by its code, network and subject (a key's public id).

    Never raises: the refusal itself is what matters.
    """
    try:
        await database.call("record_refusal", code=refusal.code, ip=ip, subject=subject)
    except GatewayError as error:
        telemetry.log("refusal_not_counted", level="WARNING", code=error.code)
