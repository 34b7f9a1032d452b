"""A user's API keys: made, changed, rotated and ended by their owner, and rotated by the clock."""

from __future__ import annotations

from datetime import date
from typing import Any

from gateway import database, keys, sealing, telemetry
from gateway.errors import InvalidRequest
from gateway.money import number, show
from gateway.overreach import guarded
from gateway.settings import settings as deployment

ENVIRONMENTS = {"development": "dev"}
"""What clients of the Gatewayz API call an environment, where we call it otherwise."""
JOB = {"name": "job:rotate_keys", "scopes": []}

type Actor = dict[str, Any]


def environment_of(tag: str) -> str:
    """The environment of a tag that a client chose: this stage's own, or `test`. Raises InvalidRequest."""
    environment = ENVIRONMENTS.get(tag, tag)
    if environment not in ("test", deployment.key_environment):
        raise InvalidRequest(f"Keys of {tag!r} cannot be made here.", param="environment_tag")
    return environment


async def create(
    actor: Actor, user_id: int, *, name: str, tag: str, scopes: list[str], settings: dict[str, Any]
) -> dict[str, Any]:
    """Make a key; `api_key` of the answer is the only sight of it. `settings` are api.create_key's.

    What the actor's key is restricted in, the made one is, too. Raises InvalidRequest for a name that is taken, and
    InsufficientScope for more than the actor has.
    """
    minted = keys.mint(environment_of(tag))
    made = await guarded(
        "create_key", f"user:{user_id}", actor, user_id=user_id, public_id=minted.id, key_hash=minted.hash,
        last_four=minted.last_four, environment=minted.environment, name=name, scopes=scopes, settings=settings,
    )  # fmt: skip
    return {**await get(user_id, made["key_id"]), "api_key": minted.plaintext}


async def listed(user_id: int, cursor: int | None = None, limit: int = 50) -> tuple[int, list[dict[str, Any]]]:
    """How many keys a user has, and a page of them, masked: those before `cursor`, the last made first."""
    found = await database.call("keys_of", user_id=user_id, cursor=cursor, most=limit)
    return found["total"], [_shown(key) for key in found["keys"]]


async def get(user_id: int, key_id: int) -> dict[str, Any]:
    """One key of a user's, masked. Raises NotFound."""
    return _shown(await database.call("key_of", key_id=key_id, user_id=user_id))


async def change(actor: Actor, user_id: int, key_id: int, changes: dict[str, Any]) -> dict[str, Any]:
    """Change a key's settings; see api.change_key. Raises NotFound, InsufficientScope and InvalidRequest."""
    about = f"key:{key_id}"
    return _shown(await guarded("change_key", about, actor, key_id=key_id, user_id=user_id, changes=changes))


async def rotate(actor: Actor, user_id: int, key_id: int, overlap_s: int) -> dict[str, Any]:
    """Give a key another secret; the one before works for `overlap_s` seconds more, 0 ends it and all sessions.

    Raises NotFound and InsufficientScope.
    """
    found = await database.call("key_of", key_id=key_id, user_id=user_id)
    minted = keys.mint(found["environment"])
    rotated = await guarded(
        "rotate_key", f"key:{key_id}", actor,
        key_id=key_id, user_id=user_id, minted=_stored(minted), overlap_s=overlap_s,
    )  # fmt: skip
    return {**_shown(rotated), "api_key": minted.plaintext}


async def delete(actor: Actor, user_id: int, key_id: int, *, force: bool) -> None:
    """End a key. Raises NotFound, and Conflict for the last key by its own hand, unless `force`."""
    await database.call("delete_key", key_id=key_id, user_id=user_id, force=force, actor=actor)


async def take_secret(actor: Actor, user_id: int, key_id: int) -> str:
    """The secret that a key was rotated to by the clock: once. Raises NotFound and InsufficientScope."""
    taken = await guarded("take_secret", f"key:{key_id}", actor, key_id=key_id, user_id=user_id)
    return sealing.unseal(taken["sealed"])


async def usage(user_id: int, key_id: int | None, since: date, until: date) -> list[dict[str, Any]]:
    """What a user's keys used, a row per key and UTC day."""
    found = await database.call("key_days", user_id=user_id, key_id=key_id, since=since, until=until)
    return [
        {
            **{name: row[name] for name in row if not name.endswith("_nano")},
            "cost": number(row["cost_nano"]),
            "byok_cost": number(row["byok_nano"]),
        }
        for row in found
    ]


async def rotate_due() -> dict[str, int]:
    """Tell the owners of keys that are due soon, and rotate those that are due."""
    rotated = 0
    for due in await database.call("due_rotations"):
        minted = keys.mint(due["environment"])
        done = await database.call(
            "rotate_due", key_id=due["key_id"], minted=_stored(minted), sealed=sealing.seal(minted.plaintext), actor=JOB
        )
        rotated += done["rotated"]
        telemetry.log("key_rotated", key_id=due["key_id"], rotated=done["rotated"])
    return {"rotated": rotated}


def _stored(minted: keys.MintedKey) -> dict[str, str]:
    return {"public_id": minted.id, "key_hash": minted.hash, "last_four": minted.last_four}


def _shown(key: dict[str, Any]) -> dict[str, Any]:
    limit, most = key["limit_nano"], key["max_requests"]
    return {
        "id": key["id"],
        "key_name": key["name"],
        "api_key": keys.masked(key["environment"], key["public_id"], key["last_four"]),
        "environment_tag": key["environment"],
        "is_active": key["status"] == "active",
        "status": key["status"],
        "scope_permissions": key["scopes"],
        "created_at": key["created_at"],
        "expires_at": key["expires_at"],
        "last_used_at": key["last_used_at"],
        "rotated_at": key["rotated_at"],
        "rotation_days": key["rotation_days"],
        "retention": key["retention"],
        "has_secret_to_fetch": key["has_pickup"],
        "requests_used": key["requests"],
        "max_requests": most,
        "requests_remaining": None if most is None else max(0, most - key["requests"]),
        "usage_percentage": None if most is None else min(100, 100 * key["requests"] // most),
        "spent_usd": show(key["used_nano"]),
        "limit_usd": None if limit is None else show(limit),
        "limit_reset": key["limit_reset"],
        "limit_remaining_usd": None if limit is None else show(max(0, limit - key["period_nano"])),
        "ip_allowlist": key["ip_allowlist"],
        "domain_referrers": key["referers"],
        "allowed_models": key["allowed_models"],
    }
