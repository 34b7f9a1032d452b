"""What operators do to accounts: make, find, suspend and restore them, and move their credits by hand."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import msgspec

from gateway import database, keyring, keys, users
from gateway.money import NANO, number, show
from gateway.overreach import guarded_role
from gateway.scopes import CUSTOMER

MOST_CREDIT_NANO = 1_000 * NANO
"""What one call may credit or debit."""
MOST_CREDIT_A_DAY_NANO = 5_000 * NANO
"""And what one operator may in a UTC day, credits and debits together."""
GRANTS = {"promo": "promotional", "goodwill": "goodwill", "correction": "correction"}
"""What clients of the Gatewayz API call a grant, and what the ledger does."""

type Actor = dict[str, Any]


class Account(msgspec.Struct, frozen=True):
    """An account that an operator wants made, with `credit_nano` nano-dollars to start with."""

    username: str
    email: str
    role: str
    environment_tag: str
    credit_nano: int
    reason: str


async def create(actor: Actor, wanted: Account) -> dict[str, Any]:
    """Make an account and its first key; `api_key` of the answer is the only sight of it.

    Raises Conflict for a taken name or address, InsufficientScope, NotFound for no such role, and InvalidRequest.
    """
    minted = keys.mint(keyring.environment_of(wanted.environment_tag))
    made = await guarded_role(
        "create_account", f"user:{wanted.username}", actor,
        username=wanted.username, email=wanted.email, role=wanted.role,
        minted={
            "public_id": minted.id, "key_hash": minted.hash, "last_four": minted.last_four,
            "environment": minted.environment,
        },
        scopes=list(CUSTOMER), credit_nano=wanted.credit_nano, most_a_day_nano=MOST_CREDIT_A_DAY_NANO,
        reason=wanted.reason,
    )  # fmt: skip
    return {**_shown(made), "api_key": minted.plaintext}


async def find(
    *, status: str | None, role: str | None, username: str | None, email: str | None, cursor: int | None, limit: int
) -> tuple[list[dict[str, Any]], int | None]:
    """A page of users, the last made first, and where the next one starts."""
    found = await database.call(
        "users", status=status, role=role, username=username, email=email, cursor=cursor, most=limit + 1
    )
    page = found[:limit]
    return [_shown(user) for user in page], page[-1]["user_id"] if len(found) > limit else None


async def get(user_id: int) -> dict[str, Any]:
    """A user with balance, limits and the newest keys, masked. Raises NotFound."""
    found = await database.call("user", user_id=user_id)
    total, own = await keyring.listed(user_id)
    limits = await database.call("rate_limits", user_id=user_id)
    balance = await users.balance(user_id)
    return {**_shown(found), "balance": balance, "rate_limits": limits, "keys_total": total, "api_keys": own}


async def suspend(actor: Actor, user_id: int, reason: str) -> dict[str, Any]:
    """Suspend a user: no key of his works from this moment. Raises NotFound, InsufficientScope and Conflict."""
    return await _set_status(actor, user_id, "suspended", reason)


async def restore(actor: Actor, user_id: int, reason: str) -> dict[str, Any]:
    """Let a suspended user go on. Raises NotFound and InsufficientScope."""
    return await _set_status(actor, user_id, "active", reason)


async def _set_status(actor: Actor, user_id: int, status: str, reason: str) -> dict[str, Any]:
    wanted = {"user_id": user_id, "status": status, "reason": reason}
    return _shown(await guarded_role("set_user_status", f"user:{user_id}", actor, **wanted))


async def holder(*, key_id: int | None = None, plaintext: str | None = None) -> dict[str, int]:
    """Whose a key is, {user_id, key_id}, by its id or plaintext. Raises NotFound, and Unauthenticated: malformed."""
    key = keys.parse(plaintext) if plaintext else None
    found: dict[str, int] = await database.call(
        "holder", id=key_id, public_id=key and key.id, key_hashes=key.hashes if key else []
    )
    return found


async def add_credits(
    actor: Actor, user_id: int, nano: int, *, kind: str, reason: str, expires_at: datetime | None, key: str
) -> dict[str, Any]:
    """Credit a user with nano-dollars, or debit one where they are negative, once per Idempotency-Key.

    Raises NotFound, IdempotencyKeyReused, and Conflict for a debit of more than is free or more than a day's most.
    """
    found = await database.call(
        "add_credits", user_id=user_id, amount_nano=nano, kind=GRANTS[kind], reason=reason, expires_at=expires_at,
        key=key, most_a_day_nano=MOST_CREDIT_A_DAY_NANO, actor=actor,
    )  # fmt: skip
    balance = found["credits_nano"]
    return {
        "new_balance": number(balance), "new_balance_usd": show(balance), "transaction_id": found["transaction_id"]
    }  # fmt: skip


def _shown(user: dict[str, Any]) -> dict[str, Any]:
    """A user with dollars in the place of nano-dollars."""
    others = {name: value for name, value in user.items() if not name.endswith("_nano")}
    credits, held = user["credits_nano"], user["held_nano"]
    return {**others, "credits": number(credits), "credits_usd": show(credits), "held_usd": show(held)}
