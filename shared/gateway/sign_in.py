"""Sign-in and session keys: whoever was verified gets his account, made the first time, and a key for the browser."""

from __future__ import annotations

import secrets
from collections.abc import Awaitable
from datetime import UTC, datetime
from typing import Any

from gateway import database, identities, keys, refusals
from gateway.errors import AccountClosed, Conflict, InvalidToken
from gateway.identities import Identity
from gateway.keys import MintedKey
from gateway.money import number, show
from gateway.overreach import guarded
from gateway.scopes import CUSTOMER, Scope
from gateway.settings import settings

SIGN_IN_S = 24 * 3600
"""How long the session key of a sign-in lives, in seconds."""


async def with_privy(texts: list[str], referral_code: str | None, ip: str | None, request_id: str) -> dict[str, Any]:
    """Sign in the user for whom Privy signed these tokens.

    Raises InvalidToken, NotFound (no Privy here), AccountClosed, Conflict and ProviderError.
    """
    given = identities.privy_tokens(*texts)
    return await _counted("privy", ip, _sign_in(identities.of_privy(given), referral_code, ip, request_id))


async def with_supabase(text: str, referral_code: str | None, ip: str | None, request_id: str) -> dict[str, Any]:
    """Sign in the user for whom Supabase Auth signed this token. Raises as `with_privy` does."""
    given = identities.supabase_token(text)
    return await _counted("supabase", ip, _sign_in(identities.of_supabase(given), referral_code, ip, request_id))


async def create_session(asked_by: str, scopes: list[Scope], seconds: int, actor: dict[str, Any]) -> dict[str, Any]:
    """A session key for a browser, for the key of the public id `asked_by`; a session key's own ends with it.

    Raises InsufficientScope for scopes that the actor lacks.
    """
    minted = keys.mint("temp")
    made = await guarded(
        "create_session", f"key:{actor['key_id']}", actor,
        asked_by=asked_by, minted=_stored(minted), scopes=scopes, seconds=seconds,
    )  # fmt: skip
    return {"session_key": minted.plaintext, "scopes": scopes, "expires_at": made["expires_at"]}


async def end_session(public_id: str, actor: dict[str, Any]) -> None:
    """End a session key of the actor's; one that has ended stays so."""
    await database.call("end_session", public_id=public_id, actor=actor)


async def _counted(provider: str, ip: str | None, signing_in: Awaitable[dict[str, Any]]) -> dict[str, Any]:
    """A sign-in with a well-formed token; when it is refused, that is counted. The token itself is not."""
    try:
        return await signing_in
    except (InvalidToken, AccountClosed, Conflict) as refusal:
        await refusals.count(refusal, ip, provider)
        raise


async def _sign_in(
    verifying: Awaitable[Identity], referral_code: str | None, ip: str | None, request_id: str
) -> dict[str, Any]:
    identity = await verifying
    first, browser, session = (
        keys.mint(settings.key_environment),
        keys.mint(settings.key_environment),
        keys.mint("temp"),
    )
    found = await database.call(
        "sign_in",
        identity={
            "provider": identity.provider, "subject": identity.subject, "email": identity.email,
            "display_name": identity.display_name,
        },
        made={
            "username": f"user-{secrets.token_hex(6)}", "environment": settings.key_environment,
            "first": _stored(first), "browser": _stored(browser), "session": _stored(session),
        },
        scopes=list(CUSTOMER),
        # a browser may do what its user may: the role decides, at each request
        browser_scopes=list(Scope),
        seconds=SIGN_IN_S,
        note={"referral_code": referral_code} if referral_code else {},
        actor={"ip": ip, "request_id": request_id},
    )  # fmt: skip
    return _answer(identity, found, first, session)


def _stored(minted: MintedKey) -> dict[str, str]:
    """What the database keeps of a key."""
    return {"public_id": minted.id, "key_hash": minted.hash, "last_four": minted.last_four}


def _answer(identity: Identity, found: dict[str, Any], first: MintedKey, session: MintedKey) -> dict[str, Any]:
    """A sign-in as its user sees it; the first key's secret at the first sign-in and never again."""
    is_first, key = found["is_first"], found["key"]
    return {
        "success": True,
        "message": "Your account is ready." if is_first else "Welcome back.",
        "user_id": found["user_id"],
        "username": found["username"],
        "api_key": first.plaintext if is_first else None,
        "api_key_prefix": keys.masked(key["environment"], key["public_id"], key["last_four"]) if key else None,
        "session_key": session.plaintext,
        "session_expires_at": found["expires_at"],
        "auth_method": identity.method,
        "privy_user_id": identity.subject if identity.provider == "privy" else None,
        "is_new_user": is_first,
        "display_name": found["display_name"],
        "email": found["email"],
        "credits": number(found["credits_nano"]),
        "credits_usd": show(found["credits_nano"]),
        "subscription_status": "active" if found["has_plan"] else "inactive",
        "timestamp": datetime.now(UTC),
    }
