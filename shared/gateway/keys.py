"""API keys and session keys: `gw_<environment>_<12 id><32 secret><6 checksum>`, all base62.

The id is public and finds the row; the secret has 190 bits from the operating system; the checksum (CRC-32 of all
before it) lets a mistyped or made-up key be refused without asking anything, and lets scanners recognise leaked ones:

    gw_(live|test|staging|dev|temp)_[0-9A-Za-z]{50}

Only HMAC-SHA256(pepper, key) is stored, under the pepper's version. A key is shown once, when it is minted. A session
key (`temp`) stands for a key for some hours, in a browser; it is of the stage whose pepper it was minted with.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
import zlib
from typing import Any

import msgspec

from gateway.errors import Unauthenticated
from gateway.settings import settings

ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
GRAMMAR = re.compile(r"gw_(live|test|staging|dev|temp)_([0-9A-Za-z]{12})([0-9A-Za-z]{32})([0-9A-Za-z]{6})")


class Key(msgspec.Struct, frozen=True):
    """A well-formed key: what the database needs to find and verify it, and nothing that is secret by itself."""

    environment: str
    id: str
    hashes: list[str]
    """`version:hex` under each pepper of the ring; the row matches one of them."""

    def credentials(self) -> dict[str, Any]:
        """The arguments by which a database function finds and verifies the key."""
        return {"key_id": self.id, "key_hashes": self.hashes}


class MintedKey(msgspec.Struct, frozen=True):
    """A key on its way to its owner: the only moment at which the gateway knows `plaintext`."""

    plaintext: str
    environment: str
    id: str
    hash: str

    @property
    def last_four(self) -> str:
        """Of the checksum: how its owner tells it from others."""
        return self.plaintext[-4:]

    def __repr__(self) -> str:
        return f"MintedKey(id={self.id!r})"


def mint(environment: str) -> MintedKey:
    """A fresh key for an environment (`live`, `test`, `staging`, `dev`), or a session key (`temp`)."""
    body = f"gw_{environment}_" + "".join(secrets.choice(ALPHABET) for _ in range(44))
    plaintext = body + _checksum(body)
    version, pepper = next(iter(settings.peppers.items()))
    identifier = body.rpartition("_")[2][:12]
    return MintedKey(plaintext, environment, identifier, f"{version}:{_mac(pepper.reveal(), plaintext)}")


def parse(plaintext: str) -> Key:
    """The key in a string, if it is one of this stage's, a test key or a session key. No input or output.

    Raises Unauthenticated.
    """
    found = _well_formed(plaintext)
    if found is None:
        raise Unauthenticated
    environment = found[1]
    if environment not in ("test", "temp", settings.key_environment):
        raise Unauthenticated(f"Keys of the environment {environment!r} do not work here.")
    hashes = [f"{version}:{_mac(pepper.reveal(), plaintext)}" for version, pepper in settings.peppers.items()]
    return Key(environment, found[2], hashes)


def is_well_formed(plaintext: str) -> bool:
    """Whether a string is a key of some stage, by its form and checksum alone."""
    return _well_formed(plaintext) is not None


def masked(environment: str, identifier: str, last_four: str = "") -> str:
    """How a key is shown after it was minted."""
    return f"gw_{environment}_{identifier[:4]}…{last_four}"


def _well_formed(plaintext: str) -> re.Match[str] | None:
    found = GRAMMAR.fullmatch(plaintext)
    return found if found and _checksum(plaintext[:-6]) == found[4] else None


def _mac(pepper: str, plaintext: str) -> str:
    return hmac.digest(pepper.encode(), plaintext.encode(), hashlib.sha256).hex()


def _checksum(body: str) -> str:
    rest, digits = zlib.crc32(body.encode()), ""
    for _ in range(6):
        rest, digit = divmod(rest, 62)
        digits = ALPHABET[digit] + digits
    return digits
