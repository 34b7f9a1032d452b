"""Fair shares of the database's connections: calls for one user wait for each other, and not everybody for them.

A user whose row is held by a slow transaction would have all connections wait for that row. Calls name their user, or
the credential of a key: the database says whose it is with its first answer, and it is remembered.
"""

from __future__ import annotations

import asyncio
from collections.abc import Hashable
from typing import Any

MAX_OWNERS = 10_000
"""Credentials whose user is remembered; the oldest is forgotten for one more."""


class Share:
    """Turns at a number of connections, and how many calls have or await one."""

    __slots__ = ("calls", "turns")

    def __init__(self, most: int) -> None:
        self.turns = asyncio.Semaphore(most)
        self.calls = 0


class Shares:
    """Who has how many of `size` connections: of one user at most `most` calls at a time, of nobody's all."""

    def __init__(self, size: int, most: int) -> None:
        self._most = most
        self._nobodys = Share(size)
        self._of: dict[Hashable, Share] = {}
        self._owners: dict[str, int] = {}

    def enter(self, owner: Hashable) -> Share:
        """The owner's share, for one more call, whose end `leave` is to be told."""
        if owner is None:
            share = self._nobodys
        elif (known := self._of.get(owner)) is None:
            share = self._of[owner] = Share(self._most)
        else:
            share = known
        share.calls += 1
        return share

    def leave(self, owner: Hashable, share: Share) -> None:
        """Note that a call is over, or was given up before its turn."""
        share.calls -= 1
        if not share.calls:
            self._of.pop(owner, None)

    def owner_of(self, arguments: dict[str, Any]) -> Hashable:
        """The user that a call is for; the credential while its user is not known, None for nobody's call."""
        if (user_id := arguments.get("user_id")) is not None:
            return int(user_id)
        hashes: list[str] = arguments.get("key_hashes") or []
        return self._owners.get(hashes[0], hashes[0]) if hashes else None

    def learn(self, arguments: dict[str, Any], answer: Any) -> None:
        """Remember whose a credential is, where a call's answer says so."""
        if not (hashes := arguments.get("key_hashes")) or hashes[0] in self._owners:
            return
        if isinstance(answer, dict) and isinstance(user_id := answer.get("user_id"), int):
            if len(self._owners) >= MAX_OWNERS:
                del self._owners[next(iter(self._owners))]
            self._owners[hashes[0]] = user_id
