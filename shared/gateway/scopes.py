"""What a key may be allowed to do. A role is a set of scopes, too.

A request may do what its key's scopes and its user's role both allow, at the moment it is made. Routes of `/admin` need
scopes that only the admin role and custom roles have.
"""

from __future__ import annotations

from enum import StrEnum


class Scope(StrEnum):
    """One permission; a key has a set of them, and so has a role."""

    INFERENCE = "inference"
    ACCOUNT_READ = "account:read"
    ACCOUNT_WRITE = "account:write"
    KEYS_WRITE = "keys:write"
    ADMIN_READ = "admin:read"
    ADMIN_USERS = "admin:users"
    ADMIN_CREDITS = "admin:credits"
    ADMIN_LIMITS = "admin:limits"
    ADMIN_ROLES = "admin:roles"
    ADMIN_ALERTS = "admin:alerts"


CUSTOMER = (Scope.INFERENCE, Scope.ACCOUNT_READ, Scope.ACCOUNT_WRITE, Scope.KEYS_WRITE)
"""The scopes of the role `user`, and of a key that asks for no others."""
