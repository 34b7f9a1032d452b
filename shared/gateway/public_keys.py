"""Public keys that others publish under ids and rotate: asked for over HTTPS, kept, and never asked for in a storm."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from yarl import URL

from gateway import outbound, telemetry
from gateway.errors import NoProviderAvailable, ProviderError

FRESH_S = 600.0
"""A list is asked for again when it is older."""
KEPT_S = 86_400.0
"""A list that cannot be had again is believed for this long."""
UNKNOWN_PAUSE_S = 60.0
"""Between two fetches because of ids that are not in the list: anybody can make up an id."""
FAILURE_PAUSE_S = 5.0
FETCH_S = 5.0
MOST_BYTES = 256 << 10

type Read = Callable[[bytes], Mapping[str, Any]]
"""Makes keys by id of a published list. Raises ValueError, KeyError, TypeError or AttributeError when it is none."""


class PublicKeys:
    """The keys at one address. Callers at the same moment share one fetch; a fetch that fails takes nothing away."""

    def __init__(self, url: str, read: Read, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._read, self._clock = URL(url), read, clock
        self._keys: Mapping[str, Any] = {}
        self._fetched_at = self._next_try = float("-inf")
        self._fetching: asyncio.Task[None] | None = None

    async def find(self, key_id: str) -> Any | None:
        """The key with an id, None if there is none. Raises NoProviderAvailable when there is no list to look in."""
        age = self._clock() - self._fetched_at
        if age >= FRESH_S or key_id not in self._keys:
            await self._refresh()
        if self._clock() - self._fetched_at >= KEPT_S:
            raise NoProviderAvailable("Signatures cannot be verified at the moment.", retry_after_ms=5000)
        return self._keys.get(key_id)

    async def _refresh(self) -> None:
        if self._fetching is None:
            if self._clock() < self._next_try:
                return
            self._fetching = asyncio.create_task(self._fetch())
        # a caller who leaves must not take the fetch from the others
        await asyncio.shield(self._fetching)

    async def _fetch(self) -> None:
        self._next_try = self._clock() + FAILURE_PAUSE_S
        try:
            if keys := await self._published():
                self._keys, self._fetched_at = keys, self._clock()
                self._next_try = self._fetched_at + UNKNOWN_PAUSE_S
            else:
                telemetry.log("public_keys_not_fetched", level="WARNING", host=self._url.host)
        finally:
            self._fetching = None

    async def _published(self) -> Mapping[str, Any]:
        """The list as it is now; nothing if it cannot be had or read."""
        headers = {"accept": "application/json", "user-agent": "gatewayz"}
        try:
            status, body = await outbound.get(self._url, headers, within_s=FETCH_S, most_bytes=MOST_BYTES)
            return self._read(body) if status == 200 else {}
        except (ProviderError, ValueError, KeyError, TypeError, AttributeError):
            return {}


_known: WeakKeyDictionary[asyncio.AbstractEventLoop, dict[str, PublicKeys]] = WeakKeyDictionary()


def keys_at(url: str, read: Read) -> PublicKeys:
    """The running loop's keys of an address, which a setting named."""
    known = _known.setdefault(asyncio.get_running_loop(), {})
    if url not in known:
        known[url] = PublicKeys(url, read)
    return known[url]
