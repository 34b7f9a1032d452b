"""Secrets that must be readable again (a user's provider keys, a rotated key until it is fetched), sealed by Fernet.

SEALING_KEYS is a ring (https://cryptography.io/en/latest/fernet/#cryptography.fernet.MultiFernet): its first key seals,
each of them opens. To rotate, put a fresh key first and keep the earlier ones until nothing is sealed with them.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from gateway.errors import InternalError
from gateway.settings import settings

if TYPE_CHECKING:
    from cryptography.fernet import MultiFernet


def seal(text: str) -> str:
    """A secret, to be kept. Raises InternalError where this deployment has no sealing key."""
    return _ring().encrypt(text.encode()).decode()


def unseal(sealed: str) -> str:
    """What was sealed with a key of the ring. Raises InternalError for anything else."""
    from cryptography.fernet import InvalidToken  # noqa: PLC0415 - 25 ms that requests without own keys do not pay

    try:
        return _ring().decrypt(sealed).decode()
    except (InvalidToken, ValueError):
        raise InternalError("A stored secret cannot be opened: its sealing key has left the ring.") from None


@functools.cache
def _ring() -> MultiFernet:
    from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415

    if not settings.sealing_keys:
        raise InternalError("This gateway keeps no secrets: SEALING_KEYS is not set.")
    return MultiFernet([Fernet(key.reveal()) for key in settings.sealing_keys])
