"""Sign-in tokens without a gateway: what has the form of one, and how an issuer's keys are asked for."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from typing import TYPE_CHECKING, Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from gateway import outbound, tokens
from gateway.errors import InvalidToken, NoProviderAvailable
from gateway.public_keys import FAILURE_PAUSE_S, FRESH_S, KEPT_S, UNKNOWN_PAUSE_S, PublicKeys
from gateway.tokens import Issuer, parse, read_keys, verify
from local.privy import APP_ID, Signer
from tests.harness.upstream import Fault, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.harness.upstream import Reply, Upstream

SUBJECT = "did:privy:ada"


@pytest.fixture(autouse=True)
async def _connections() -> AsyncIterator[None]:
    yield
    await outbound.close()


class Clock:
    """Time that goes on when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def published(*signers: Signer) -> Reply:
    return whole(json.dumps({"keys": [key for signer in signers for key in signer.published]}).encode())


def privy(upstream: Upstream, *algorithms: str) -> Issuer:
    return Issuer("privy.io", APP_ID, f"{upstream.url}/jwks.json", algorithms or ("ES256",))


def segment(value: Any) -> str:
    return (
        base64.urlsafe_b64encode(value if isinstance(value, bytes) else json.dumps(value).encode())
        .rstrip(b"=")
        .decode()
    )


def spelled(header: dict[str, Any], claims: Any = None) -> str:
    """A token with a signature of zeros."""
    whole_header = {"alg": "ES256", "kid": "k1", "typ": "JWT"} | header
    return ".".join([segment(whole_header), segment(claims or {"iss": "privy.io"}), segment(bytes(64))])


NO_TOKENS = {
    "nothing": "",
    "no token": "token",
    "two parts": ".".join(spelled({}).split(".")[:2]),
    "four parts": spelled({}) + ".e30",
    "encrypted": spelled({}) + ".a.a",
    "no signature": spelled({}).rpartition(".")[0] + ".",
    "padded": spelled({}) + "=",
    "a blank": " " + spelled({}),
    "a line more": spelled({}) + "\n",
    "other letters": spelled({}).replace("e", "\uff45", 1),
    "bits that base64 ignores": spelled({})[:-1] + "B",
    "too long": spelled({}, {"iss": "privy.io", "pad": "x" * tokens.MOST_CHARACTERS}),
    "none": spelled({"alg": "none"}),
    "None": spelled({"alg": "None"}),
    "shared secret": spelled({"alg": "HS256"}),
    "RSA": spelled({"alg": "RS256"}),
    "a longer curve": spelled({"alg": "ES384"}),
    "algorithm no text": spelled({"alg": ["ES256"]}),
    "no kid": spelled({"kid": None}),
    "empty kid": spelled({"kid": ""}),
    "long kid": spelled({"kid": "k" * 256}),
    "another type": spelled({"typ": "JWE"}),
    "critical": spelled({"crit": ["b64"], "b64": False}),
    "no claims": spelled({}, ["privy.io"]),
    "no issuer": spelled({}, {"sub": SUBJECT}),
    "another issuer": spelled({}, {"iss": "https://privy.io"}),
    "header no object": ".".join([segment([]), segment({"iss": "privy.io"}), segment(bytes(64))]),
    "not UTF-8": ".".join([segment(b'{"alg":"\xff"}'), segment({}), segment(bytes(64))]),
    "nested too deep": ".".join([segment(b"[" * 10_000), segment({}), segment(bytes(64))]),
    "claims nested too deep": spelled({}, b'{"iss": "privy.io", "deep": ' + b"[" * 10_000),
}


@pytest.mark.parametrize("case", NO_TOKENS)
async def test_what_has_not_the_form_of_a_token_is_refused_before_anything_is_asked(upstream: Upstream, case: str):
    with pytest.raises(InvalidToken):
        parse(NO_TOKENS[case], privy(upstream))
    assert upstream.requests == []


async def test_addresses_and_keys_in_a_header_are_not_looked_at(upstream: Upstream):
    signer, foreign = Signer(), Signer()
    upstream.will(published(signer))
    claims = {"iss": "privy.io", "aud": APP_ID, "sub": SUBJECT, "exp": 2**33}
    header = {
        "kid": signer.key_id,
        "jku": f"{upstream.url}/evil",
        "x5u": f"{upstream.url}/evil",
        "jwk": foreign.published[0],
    }
    with pytest.raises(InvalidToken):
        await verify(parse(jwt.encode(claims, foreign.key, "ES256", header), privy(upstream)))
    assert [request.path for request in upstream.requests] == ["/jwks.json"]


NOT_FOR_US: dict[str, dict[str, Any]] = {
    "another app": {"aud": "other-app"},
    "no app": {"aud": None},
    "expired": {"exp": 1_000_000_000},
    "expires never": {"exp": None},
    "expiry no number": {"exp": "soon"},
    "expiry without end": {"exp": float("inf")},
    "not yet": {"nbf": 2**33},
    "issued later": {"iat": 2**33},
    "no subject": {"sub": None},
    "empty subject": {"sub": ""},
    "subject no text": {"sub": 7},
    "subject too long": {"sub": "s" * 256},
    "subject of two lines": {"sub": "did:privy:ada\n"},
    "subject with a zero": {"sub": "did:privy:\0"},
}


@pytest.mark.parametrize("case", NOT_FOR_US)
async def test_claims_that_are_missing_or_not_for_us_are_refused(upstream: Upstream, case: str):
    signer = Signer()
    upstream.will(published(signer))
    claims = {"iss": "privy.io", "aud": APP_ID, "sub": SUBJECT, "exp": 2**33} | NOT_FOR_US[case]
    present = {name: value for name, value in claims.items() if value is not None}
    text = jwt.PyJWS().encode(json.dumps(present).encode(), signer.key, "ES256", {"kid": signer.key_id, "typ": "JWT"})
    with pytest.raises(InvalidToken):
        await verify(parse(text, privy(upstream)))


async def test_a_token_is_verified_also_by_clocks_that_differ_a_little(upstream: Upstream):
    signer = Signer()
    upstream.will(published(signer))
    now = int(time.time())
    text = signer.token(iss="privy.io", aud=[APP_ID, "other"], sub=SUBJECT, exp=now - 5, iat=now + 5)
    assert (await verify(parse(text, privy(upstream))))["sub"] == SUBJECT
    assert "did:privy" not in repr(parse(text, privy(upstream)))


async def test_a_public_key_is_no_shared_secret_and_a_key_signs_with_its_own_algorithm(upstream: Upstream):
    key = rsa.generate_private_key(65537, 2048)
    public = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(key.public_key())) | {"kid": "rsa"}
    secret = {"kty": "oct", "k": segment(b"s" * 32), "kid": "secret"}
    upstream.will(whole(json.dumps({"keys": [public, secret]}).encode()))
    issuer = privy(upstream, "ES256", "RS256")
    claims = {"iss": "privy.io", "aud": APP_ID, "sub": SUBJECT, "exp": 2**33}
    text = jwt.encode(claims, key, "RS256", {"kid": "rsa"})
    assert (await verify(parse(text, issuer)))["sub"] == SUBJECT
    confused = jwt.encode(claims, Signer().key, "ES256", {"kid": "rsa"})
    for refused in (confused, jwt.encode(claims, Signer().key, "ES256", {"kid": "secret"})):
        with pytest.raises(InvalidToken):
            await verify(parse(refused, issuer))


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "k": "c2VjcmV0", "alg": "HS256"},
        {"kty": "OKP", "crv": "Ed25519", "x": segment(bytes(32))},
        {"kty": "EC", "crv": "secp256k1", "x": segment(bytes(32)), "y": segment(bytes(32))},
        {**Signer().published[0], "use": "enc"},
        {**Signer().published[0], "alg": "ES384"},
        {**Signer().published[0], "y": segment(bytes(32))},
        {**Signer().published[0], "kid": 7},
    ],
)
def test_keys_that_sign_nothing_for_us_are_left_out_of_a_set(entry: dict[str, Any]):
    good = Signer()
    body = json.dumps({"keys": [{"kid": "bad", **entry}, *good.published]}).encode()
    assert list(read_keys(body)) == [good.key_id]


@pytest.mark.parametrize("entry", ["a", 7, None, [], {"kty": ["EC"]}, {**Signer().published[0], "x": 7}])
def test_what_is_no_key_is_left_out_of_a_set(entry: Any):
    good = Signer()
    assert list(read_keys(json.dumps({"keys": [entry, *good.published]}).encode())) == [good.key_id]


def numbered(body: bytes) -> dict[str, Any]:
    return msgspec.json.decode(body, type=dict[str, Any])


def a_list(*ids: str) -> Reply:
    return whole(json.dumps(dict.fromkeys(ids, 1)).encode())


async def test_callers_at_the_same_moment_share_one_fetch(upstream: Upstream):
    upstream.will(a_list("a"))
    keys = PublicKeys(upstream.url, numbered)
    assert await asyncio.gather(*(keys.find("a") for _ in range(50))) == [1] * 50
    assert await asyncio.gather(*(keys.find(f"made-up-{number}") for number in range(50))) == [None] * 50
    assert len(upstream.requests) == 1


async def test_a_caller_who_leaves_does_not_take_the_fetch_from_the_others(upstream: Upstream):
    upstream.will((0.05, *a_list("a")))
    keys = PublicKeys(upstream.url, numbered)
    leaving, staying = asyncio.create_task(keys.find("a")), asyncio.create_task(keys.find("a"))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == 1
    assert len(upstream.requests) == 1


async def test_a_rotated_key_is_found_and_a_made_up_one_asked_for_once_a_minute(upstream: Upstream):
    clock = Clock()
    upstream.will(a_list("a"), a_list("a", "b"))
    keys = PublicKeys(upstream.url, numbered, clock)
    assert await keys.find("a") == 1
    clock.now += UNKNOWN_PAUSE_S - 1
    assert await keys.find("b") is None
    clock.now += 1
    assert await keys.find("b") == 1
    for _ in range(int(UNKNOWN_PAUSE_S) - 1):
        clock.now += 1
        assert await keys.find("made-up") is None
    assert len(upstream.requests) == 2
    clock.now += FRESH_S
    assert await keys.find("a") == 1
    assert len(upstream.requests) == 3


FAILURES: dict[str, Reply] = {
    "500": whole(b'{"b": 1}', 500),
    "redirect": whole(b"", 302, location="http://127.0.0.1:1/"),
    "not JSON": whole(b"<html>"),
    "no list": whole(b"[]"),
    "empty": whole(b"{}"),
    "cut": (b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", Fault.CLOSE),
    "too large": whole(b'{"a": "' + b"x" * (300 << 10) + b'"}'),
    "compressed": whole(b"\x1f\x8b", content_encoding="gzip"),
}


@pytest.mark.parametrize("case", FAILURES)
async def test_a_fetch_that_fails_keeps_the_last_keys_and_is_not_repeated_in_a_storm(upstream: Upstream, case: str):
    clock = Clock()
    upstream.will(a_list("a"), FAILURES[case])
    keys = PublicKeys(upstream.url, numbered, clock)
    assert await keys.find("a") == 1
    clock.now += FRESH_S
    for _ in range(20):
        assert await keys.find("a") == 1
    assert len(upstream.requests) == 2
    clock.now += KEPT_S
    with pytest.raises(NoProviderAvailable):
        await keys.find("a")


async def test_without_any_keys_there_is_a_503_and_soon_another_try(upstream: Upstream):
    clock = Clock()
    upstream.will(whole(b"", 503), a_list("a"))
    keys = PublicKeys(upstream.url, numbered, clock)
    for _ in range(20):
        with pytest.raises(NoProviderAvailable):
            await keys.find("a")
    clock.now += FAILURE_PAUSE_S
    assert await keys.find("a") == 1
    assert len(upstream.requests) == 2


async def test_an_issuer_that_never_answers_is_given_up(upstream: Upstream, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gateway.public_keys.FETCH_S", 0.05)
    upstream.will((b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n{", Fault.STALL))
    with pytest.raises(NoProviderAvailable):
        await PublicKeys(upstream.url, numbered).find("a")
