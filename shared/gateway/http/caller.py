"""Who calls a management route: `Depends(require(scope))` is the only way in; a route without it is public."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import Request

from gateway import database, refusals, telemetry
from gateway.errors import InsufficientScope, Unauthenticated
from gateway.http.bearer import address_of, key_of
from gateway.scopes import Scope


class Caller(msgspec.Struct, frozen=True):
    """The verified owner of a key, as it was at the moment of this request."""

    user_id: int
    key_id: int
    environment: str
    role: str
    username: str
    scopes: list[Scope]
    """What the key and the role both allow."""
    ip: str | None
    request_id: str
    credential: dict[str, Any]
    """By what, and for which scope: {key_id, key_hashes, referer, scope}. A change verifies it once more."""

    def __repr__(self) -> str:
        return f"Caller(user_id={self.user_id}, key_id={self.key_id})"

    def actor(self) -> dict[str, Any]:
        """The caller as the `actor` of a database function: whom the audit log names, and by what he acts."""
        return {
            "name": f"user:{self.user_id}",
            "user_id": self.user_id,
            "key_id": self.key_id,
            "ip": self.ip,
            "request_id": self.request_id,
            "scopes": self.scopes,
            "credential": self.credential,
        }


def require(scope: Scope) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency that verifies the request's key for a scope. Raises Unauthenticated and InsufficientScope."""

    async def caller(request: Request) -> Caller:
        key, ip = key_of(request), address_of(request)
        credential = {**key.credentials(), "referer": request.headers.get("referer"), "scope": scope}
        try:
            found = await database.call("authenticate", **credential, ip=ip)
        except (Unauthenticated, InsufficientScope) as refusal:
            await refusals.count(refusal, ip, key.id)
            raise
        telemetry.identify(found["user_id"], found["key_id"])
        own = {"ip": ip, "request_id": request.scope["request_id"], "credential": credential}
        return msgspec.convert({**found, **own}, Caller)

    return caller
