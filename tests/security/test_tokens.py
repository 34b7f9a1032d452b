"""A thousand tampered sign-in tokens: none signs anybody in, and nothing of one reaches the database."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any

import jwt
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from local.privy import APP_ID, Signer

if TYPE_CHECKING:
    from tests.harness.gateway import InProcess
    from tests.harness.issuer import Issuer

EXAMPLES = 1000
SUBJECT = "did:privy:kanari-0f6e1d"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
WRONG: list[dict[str, Any]] = [
    {"aud": "other-app"},
    {"aud": ["other-app"]},
    {"aud": APP_ID.upper()},
    {"iss": "privy.io.example.com"},
    {"iss": "https://privy.io"},
    {"exp": 1},
    {"exp": int(time.time()) - 3600},
    {"nbf": 2**33},
    {"sub": ""},
    {"sub": None},
]


def flipped(token: str, segment: int, place: int, bit: int) -> str:
    """The token with one bit of one segment's text another, as the six bits of a letter."""
    parts = token.split(".")
    at = place % len(parts[segment])
    letter = LETTERS[LETTERS.index(parts[segment][at]) ^ 1 << bit]
    parts[segment] = parts[segment][:at] + letter + parts[segment][at + 1 :]
    return ".".join(parts)


def confused(signer: Signer, algorithm: str, secret: bytes) -> str:
    """A token whose header names another algorithm; one with a shared secret is signed with the public key as that."""
    claims = {"iss": "privy.io", "aud": APP_ID, "sub": SUBJECT, "exp": 2**33}
    header = {"alg": algorithm, "kid": signer.key_id, "typ": "JWT"}
    head, payload = (
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims)
    )
    if algorithm.startswith("HS"):
        # PyJWT will not sign with a public key, and that is what is tried here
        algorithms = jwt.algorithms.get_default_algorithms()
        hashed: Any = algorithms[algorithm]
        signed = base64.urlsafe_b64encode(hashed.sign(f"{head}.{payload}".encode(), secret)).rstrip(b"=").decode()
        return f"{head}.{payload}.{signed}"
    genuine = signer.token(**claims).split(".")
    return f"{head}.{genuine[1]}.{genuine[2] if algorithm != 'none' else 'AA'}"


def tampered(signer: Signer) -> st.SearchStrategy[str]:
    good = {"iss": "privy.io", "aud": APP_ID, "sub": SUBJECT}
    genuine, foreign = signer.token(**good), Signer()
    foreign.key_id = signer.key_id
    public = signer.key.public_key()
    secrets = [
        public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        json.dumps(signer.published[0]).encode(),
        b"",
    ]
    flips = st.builds(flipped, st.just(genuine), st.sampled_from([0, 1, 2]), st.integers(0, 10_000), st.integers(0, 5))
    algorithms = st.sampled_from(["none", "None", "HS256", "HS384", "HS512", "RS256", "ES384", "EdDSA", "es256", ""])
    swaps = st.builds(confused, st.just(signer), algorithms, st.sampled_from(secrets))
    claims = st.sampled_from(WRONG).map(lambda wrong: signer.token(**good | wrong))
    others = st.builds(lambda pad: foreign.token(**good, pad=pad), st.text(max_size=10))
    cut = st.integers(0, len(genuine) - 1).map(lambda end: genuine[:end])
    mixed = st.builds(
        lambda pad: ".".join([*foreign.token(**good, pad=pad).split(".")[:2], genuine.split(".")[2]]),
        st.text(max_size=10),
    )
    return st.one_of(flips, flips, flips, swaps, claims, others, cut, mixed).filter(
        lambda token: token not in ("", genuine)
    )


async def test_no_tampered_token_signs_anybody_in_or_reaches_the_database(gateway: InProcess, issuer: Issuer):
    said: list[str] = []
    sound = gateway.line.call

    async def listened(name: str, arguments: dict[str, Any]) -> Any:
        said.append(f"{name} {json.dumps(arguments)}")
        return await sound(name, arguments)

    gateway.line.call = listened  # type: ignore[method-assign]  # a line that is listened to
    tokens: list[str] = []

    @settings(
        max_examples=EXAMPLES, database=None, deadline=None, derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )  # fmt: skip
    @given(tampered(issuer.signer))
    def collect(token: str) -> None:
        tokens.append(token)

    collect()
    assert len(tokens) >= EXAMPLES
    for token in tokens:
        response = await gateway.client.post("/auth/privy", json={"token": token})
        assert (response.status_code, response.json()["error"]["code"]) == (401, "invalid_token"), token
        assert "kanari" not in response.text
    assert {call.partition(" ")[0] for call in said} == {"record_refusal"}
    assert len(set(said)) == 1, "the count of refusals is told the provider and the network, no more"
    assert await gateway.books.fetchval("select count(*) from gateway.identities") == 0
    assert issuer.asked.count("/v1/apps/local-app/jwks.json") == 1
    genuine = await gateway.client.post("/auth/privy", json={"token": issuer.access_token(SUBJECT, linked_accounts=[])})
    assert genuine.status_code == 200
