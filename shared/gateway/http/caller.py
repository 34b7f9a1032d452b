"""Who calls a management route: `Depends(require(scope))` is the only way in; a route without it is public."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import msgspec
from fastapi import Request

from gateway import database
from gateway.http.bearer import address_of, key_of
from gateway.roles import Scope


class Caller(msgspec.Struct, frozen=True):
    """The verified owner of a key, as it was at the moment of this request."""

    user_id: int
    key_id: int
    environment: str
    role: str
    username: str


def require(scope: Scope) -> Callable[[Request], Awaitable[Caller]]:
    """A dependency that verifies the request's key for a scope. Raises Unauthenticated and InsufficientScope."""

    async def caller(request: Request) -> Caller:
        found = await database.call(
            "authenticate",
            **key_of(request).credentials(),
            ip=address_of(request),
            referer=request.headers.get("referer"),
            scope=scope,
        )
        return msgspec.convert(found, Caller)

    return caller
