"""Keys that leaked, as GitHub's secret scanning reports them: what was found in public is ended, and its owner is told.

https://docs.github.com/en/code-security/secret-scanning/secret-scanning-partnership-program/secret-scanning-partner-program
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from typing import Any

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from gateway import database, keys, refusals
from gateway.errors import InvalidRequest, PayloadTooLarge, Unauthenticated
from gateway.public_keys import keys_at
from gateway.settings import settings

MOST_BYTES = 1 << 20
KEY_ID = re.compile(r"[0-9A-Za-z_-]{1,128}")
SIGNATURE = re.compile(r"[0-9A-Za-z+/]{1,128}={0,2}")
UNPROVED = "The report's signature is missing or not valid."


class Leak(msgspec.Struct, frozen=True):
    """One match of the scanner, with what it may be called there and where it was."""

    token: str
    type: str = ""
    url: str | None = None


async def revoke(report: bytes, key_id: str, signature: str, ip: str | None, request_id: str) -> list[dict[str, str]]:
    """End the keys in a report that its scanner signed. Answers what of it has the form of a key, and so alike for keys
    that are there, were there and never were.

    Raises Unauthenticated, PayloadTooLarge, InvalidRequest, and NoProviderAvailable without the scanner's keys.
    """
    if len(report) > MOST_BYTES:
        raise PayloadTooLarge
    if not KEY_ID.fullmatch(key_id) or not SIGNATURE.fullmatch(signature):
        raise Unauthenticated(UNPROVED)
    if not await _is_signed(report, key_id, signature):
        refusal = Unauthenticated(UNPROVED)
        await refusals.count(refusal, ip, "leaked-keys")
        raise refusal
    try:
        leaks = msgspec.json.decode(report, type=list[Leak])
    except (msgspec.DecodeError, RecursionError):
        raise InvalidRequest("The report is not a list of matches.") from None
    if ours := [found for leak in leaks if (found := _credentials(leak))]:
        actor = {"name": "github secret scanning", "ip": ip, "request_id": request_id}
        await database.call("revoke_leaked", leaks=ours, actor=actor)
    return [_feedback(leak) for leak in leaks]


async def _is_signed(report: bytes, key_id: str, signature: str) -> bool:
    key = await keys_at(settings.leak_keys_url, read_keys).find(key_id)
    if key is None:
        return False
    try:
        key.verify(base64.b64decode(signature), report, ECDSA(SHA256()))
    except (InvalidSignature, binascii.Error):
        return False
    return True


def read_keys(body: bytes) -> dict[str, EllipticCurvePublicKey]:
    """The P-256 keys of GitHub's list by their ids."""
    found: dict[str, EllipticCurvePublicKey] = {}
    for entry in msgspec.json.decode(body, type=dict[str, Any])["public_keys"]:
        key = load_pem_public_key(entry["key"].encode())
        if isinstance(key, EllipticCurvePublicKey) and isinstance(key.curve, SECP256R1):
            found[entry["key_identifier"]] = key
    return found


def _credentials(leak: Leak) -> dict[str, Any] | None:
    """What finds a key of this stage in the database; None for any other text."""
    try:
        key = keys.parse(leak.token)
    except Unauthenticated:
        return None
    url = leak.url if leak.url and len(leak.url) <= 500 and leak.url.isprintable() else None
    return {"public_id": key.id, "key_hashes": key.hashes, "url": url}


def _feedback(leak: Leak) -> dict[str, str]:
    return {
        "token_hash": hashlib.sha256(leak.token.encode()).hexdigest(),
        "token_type": leak.type,
        "label": "true_positive" if keys.is_well_formed(leak.token) else "false_positive",
    }
