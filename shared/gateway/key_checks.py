"""Whether a key is good, asked before much is done for its request. A made-up key is remembered for some seconds: sent
again and again it costs the database nothing.
"""

from __future__ import annotations

import time

from gateway import database, refusals, telemetry
from gateway.errors import InsufficientScope, Unauthenticated
from gateway.keys import Key
from gateway.scopes import Scope

REMEMBERED_S = 10.0
MOST_REMEMBERED = 10_000

_refused: dict[str, float] = {}
"""Until when a key is refused, by its hash; the oldest first."""


async def check(key: Key, ip: str | None, referer: str | None, scope: Scope) -> None:
    """Return if the key is valid for the scope at this moment.

    Raises Unauthenticated, InsufficientScope and DatabaseUnavailable.
    """
    name, now = key.hashes[0], time.monotonic()
    if _refused.get(name, 0.0) > now:
        raise Unauthenticated
    try:
        found = await database.call("check_key", **key.credentials(), ip=ip, referer=referer, scope=scope)
    except (Unauthenticated, InsufficientScope) as refusal:
        if refusal.code == Unauthenticated.code:
            _remember(name, now)
        await refusals.count(refusal, ip, key.id)
        raise
    telemetry.identify(found["user_id"], found["key_id"])


def _remember(name: str, now: float) -> None:
    _refused.pop(name, None)
    while _refused and (len(_refused) >= MOST_REMEMBERED or next(iter(_refused.values())) < now):
        del _refused[next(iter(_refused))]
    _refused[name] = now + REMEMBERED_S
