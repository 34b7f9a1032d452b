"""What a key may be allowed to do."""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """One permission; a key has a set of them."""

    INFERENCE = "inference"
    ACCOUNT_READ = "account:read"
