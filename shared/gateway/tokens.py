"""Sign-in tokens (JWT, RFC 7519): believed when the issuer's key signed them for us, and not before.

A token is read without input or output first: its size, its form, the algorithm that it names and whom it says it is
from and for. Only then is the issuer's key asked for, and only a verified token's claims go any further.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

import jwt
import msgspec
from jwt import PyJWK

from gateway.errors import InvalidToken
from gateway.public_keys import keys_at

MOST_CHARACTERS = 16_384
LEEWAY_S = 30
"""How far clocks may differ."""
REQUIRED = ["exp", "iss", "aud", "sub"]
ALGORITHMS = {"EC": "ES256", "RSA": "RS256"}
"""What a key of a kind signs with."""
FORM = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
SUBJECT = re.compile(r"[\x21-\x7e]{1,255}")


class Issuer(msgspec.Struct, frozen=True):
    """Whose tokens are believed, and what they must say."""

    name: str
    audience: str
    keys_url: str
    algorithms: tuple[str, ...]


class Header(msgspec.Struct, frozen=True):
    """What is read of a token's header; addresses of keys in it are not looked at."""

    alg: str
    kid: str
    typ: str = "JWT"
    crit: Any = None


class Token(msgspec.Struct, frozen=True):
    """A well-formed token that claims to be an issuer's. Nothing in it is believed yet."""

    text: str
    header: Header
    issuer: Issuer

    def __repr__(self) -> str:
        return "Token(…)"


def parse(text: str, issuer: Issuer) -> Token:
    """The token in a string, if it has the form of one of this issuer's. No input or output. Raises InvalidToken."""
    if len(text) > MOST_CHARACTERS or not FORM.fullmatch(text):
        raise InvalidToken
    try:
        header, payload, _ = (_decoded(segment) for segment in text.split("."))
        read = msgspec.json.decode(header, type=Header)
        claims = msgspec.json.decode(payload, type=dict[str, Any])
    except (ValueError, RecursionError):
        raise InvalidToken from None
    if read.alg not in issuer.algorithms or read.typ.upper() != "JWT" or read.crit is not None:
        raise InvalidToken
    if claims.get("iss") != issuer.name or not 1 <= len(read.kid) <= 255:
        raise InvalidToken
    return Token(text, read, issuer)


async def verify(token: Token) -> Mapping[str, Any]:
    """The claims of a token: signed by its issuer, for us, in time. `sub` is printable ASCII of at most 255 characters.

    Raises InvalidToken, and NoProviderAvailable when the issuer's keys cannot be had.
    """
    issuer = token.issuer
    key = await keys_at(issuer.keys_url, read_keys).find(token.header.kid)
    if key is None:
        raise InvalidToken
    try:
        claims: dict[str, Any] = jwt.decode(
            token.text, key, issuer.algorithms, audience=issuer.audience, issuer=issuer.name, leeway=LEEWAY_S,
            options={"require": REQUIRED, "enforce_minimum_key_length": True},
        )  # fmt: skip
    except jwt.ExpiredSignatureError:
        raise InvalidToken("The sign-in token has expired.") from None
    except (jwt.PyJWTError, ValueError, OverflowError):
        raise InvalidToken from None
    if not SUBJECT.fullmatch(claims["sub"]):
        raise InvalidToken
    return claims


def read_keys(body: bytes) -> dict[str, PyJWK]:
    """The signature keys of a JWK set (RFC 7517) by their ids; what is no key, or of another kind, is left out."""
    keys: dict[str, PyJWK] = {}
    for entry in msgspec.json.decode(body, type=dict[str, Any])["keys"]:
        if not isinstance(entry, dict):
            continue
        algorithm = ALGORITHMS.get(str(entry.get("kty")))
        is_for_us = entry.get("alg", algorithm) == algorithm and entry.get("use", "sig") == "sig"
        if algorithm and is_for_us and isinstance(entry.get("kid"), str):
            try:
                keys[entry["kid"]] = PyJWK(entry, algorithm)
            except (jwt.PyJWTError, ValueError, TypeError, AttributeError):
                continue
    return keys


def _decoded(segment: str) -> bytes:
    """The bytes of a segment. Each has one spelling: bits that base64 would ignore are refused. Raises ValueError."""
    decoded = base64.urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
    if base64.urlsafe_b64encode(decoded).rstrip(b"=") != segment.encode():
        raise ValueError("not canonical")
    return decoded
