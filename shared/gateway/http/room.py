"""Room for bodies: how much memory the requests of one process may take together. What does not fit is a 503.

The first 64 KiB of each request are free: the number of connections bounds them, and small requests pass while large
ones fill the room. The rest is taken as it arrives, and again when it is parsed, and given back when the request ends.
Until its key is verified a request takes from a room of its own kind, so that those without a key cannot fill the one
of those who have one.
"""

from __future__ import annotations

from gateway.errors import Overloaded

FREE_BYTES = 64 << 10
ANONYMOUS_ROOM_BYTES = 32 << 20
ROOM_BYTES = 128 << 20
PAUSE_MS = 1000
"""When a refused client may try again."""


class Room:
    """A number of bytes that requests share."""

    def __init__(self, size: int) -> None:
        self.size = self.left = size

    @property
    def is_crowded(self) -> bool:
        """Whether less than half of it is free."""
        return self.left < self.size // 2


anonymous, verified = Room(ANONYMOUS_ROOM_BYTES), Room(ROOM_BYTES)


class Share:
    """What one request has of the room."""

    def __init__(self) -> None:
        self._room = anonymous
        self._seen = self._taken = 0

    @property
    def is_pressed(self) -> bool:
        """Whether the request takes room while requests without a verified key have little of it left."""
        return self._taken > 0 and self._room is anonymous and anonymous.is_crowded

    def take(self, size: int) -> None:
        """Take room for so many more bytes. Raises Overloaded, and has taken nothing then."""
        further = max(0, self._seen + size - FREE_BYTES) - self._taken
        if further > self._room.left:
            raise Overloaded(retry_after_ms=PAUSE_MS)
        self._seen += size
        self._taken += further
        self._room.left -= further

    def verify(self) -> None:
        """Move to the room of verified keys. Raises Overloaded when that is full."""
        if self._taken > verified.left:
            raise Overloaded(retry_after_ms=PAUSE_MS)
        taken = self._taken
        self.give_back()
        self._room, self._taken = verified, taken
        verified.left -= taken

    def give_back(self) -> None:
        """End the request's share."""
        self._room.left += self._taken
        self._taken = 0
