"""Account recovery. There are no passwords here: what is lost is keys, and a proved address brings one back."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
from datetime import UTC, datetime
from typing import Any

from gateway import database, keys, refusals, sealing
from gateway.errors import InvalidToken
from gateway.scopes import CUSTOMER
from gateway.settings import settings

TOKEN = re.compile(r"gwr_[0-9A-Za-z_-]{43}")
ANSWER_S = 0.25
"""After which everybody who asks is answered: longer than the work takes, and short for who waits."""
UNPROVED = "The token is not valid: it was used, is over, or never was."


async def ask(email: str, ip: str | None, request_id: str) -> None:
    """Mail a token to the active account with this address; for any other nothing happens, and nobody can tell: the
    answer comes after ANSWER_S, however long the work takes. What takes longer goes on; it is one statement, which the
    database ends by itself where this process is frozen. Raises DatabaseUnavailable.
    """
    token = f"gwr_{secrets.token_urlsafe(32)}"
    asked = {"email": email, "hash": _hash(token), "sealed": sealing.seal(token)}
    working = asyncio.ensure_future(
        database.call("start_recovery", **asked, actor={"ip": ip, "request_id": request_id})
    )
    _working.add(working)
    working.add_done_callback(_ended)
    await asyncio.sleep(ANSWER_S)
    if working.done():
        working.result()


def _ended(working: asyncio.Future[Any]) -> None:
    """Look at a failure, which nobody else may do any more: the database's door has logged it."""
    _working.discard(working)
    if not working.cancelled():
        working.exception()


async def confirm(token: str, ip: str | None, request_id: str) -> dict[str, Any]:
    """End an account's sessions and make it a key, once for a token; `api_key` of the answer is the only sight of it.

    Raises InvalidToken.
    """
    try:
        return await _recover(token, ip, request_id)
    except InvalidToken as refusal:
        await refusals.count(refusal, ip, "recovery")
        raise


async def _recover(token: str, ip: str | None, request_id: str) -> dict[str, Any]:
    if not TOKEN.fullmatch(token):
        raise InvalidToken(UNPROVED, param="token")
    minted = keys.mint(settings.key_environment)
    made = await database.call(
        "recover_account", hash=_hash(token),
        minted={"public_id": minted.id, "key_hash": minted.hash, "last_four": minted.last_four},
        environment=minted.environment, name=f"recovered {datetime.now(UTC):%Y-%m-%d}", scopes=list(CUSTOMER),
        actor={"ip": ip, "request_id": request_id},
    )  # fmt: skip
    return {
        "user_id": made["user_id"], "username": made["username"], "id": made["key_id"], "key_name": made["name"],
        "api_key": minted.plaintext,
    }  # fmt: skip


_working: set[asyncio.Future[Any]] = set()
"""What is at work after its answer: the loop alone would let it be collected."""


def _hash(token: str) -> str:
    """Of 256 bits of chance: nothing to be guessed, and so nothing to be slowed down."""
    return hashlib.sha256(token.encode()).hexdigest()
