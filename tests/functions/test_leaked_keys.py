"""POST /auth/leaked-keys: what GitHub's scanner found ends, and nobody learns what was there."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import TYPE_CHECKING

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.keys import mint
from tests.functions.test_errors import error_of
from tests.harness.upstream import whole

if TYPE_CHECKING:
    import httpx

    from tests.harness.gateway import InProcess
    from tests.harness.issuer import Issuer
    from tests.harness.upstream import Upstream


class Scanner:
    """GitHub's secret scanning: a key, the list that it is published in, and reports signed with it."""

    def __init__(self) -> None:
        self.key, self.id = ec.generate_private_key(ec.SECP256R1()), "f9525bf080f75b3506ca1ead061add62b8633a346606dc5f"

    def published(self) -> bytes:
        pem = self.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
        return json.dumps({"public_keys": [{"key_identifier": self.id, "key": pem, "is_current": True}]}).encode()

    def headers(self, report: bytes) -> dict[str, str]:
        signature = base64.b64encode(self.key.sign(report, ec.ECDSA(SHA256()))).decode()
        return {"github-public-key-identifier": self.id, "github-public-key-signature": signature}


@pytest.fixture
async def scanner(issuer: Issuer, upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> Scanner:
    scanner = Scanner()
    upstream.will(whole(scanner.published()))
    issuer.trusted(monkeypatch, LEAK_KEYS_URL=upstream.url)
    return scanner


def a_report(*tokens: str) -> bytes:
    found = [
        {"token": token, "type": "gatewayz_key", "url": "https://github.com/a/b", "source": "content"}
        for token in tokens
    ]
    return json.dumps(found).encode()


async def a_session(gateway: InProcess) -> str:
    made = await gateway.client.post("/auth/session-keys", headers=gateway.headers(), json={})
    return str(made.json()["session_key"])


async def reported(gateway: InProcess, report: bytes, headers: dict[str, str]) -> httpx.Response:
    return await gateway.client.post("/auth/leaked-keys", content=report, headers=headers)


async def test_leaked_keys_end_and_nobody_is_told_which_were_there(gateway: InProcess, scanner: Scanner):
    leaked, session = await gateway.a_key(), await a_session(gateway)
    texts = [leaked, session, mint("dev").plaintext, mint("live").plaintext, "gw_dev_nonsense"]
    report = a_report(*texts)
    first = await reported(gateway, report, scanner.headers(report))
    again = await reported(gateway, report, scanner.headers(report))
    labels = ["true_positive"] * 4 + ["false_positive"]
    assert first.status_code == 200
    assert (
        first.json()
        == again.json()
        == [
            {"token_hash": hashlib.sha256(text.encode()).hexdigest(), "token_type": "gatewayz_key", "label": label}
            for text, label in zip(texts, labels, strict=True)
        ]
    )
    for key in (leaked, session):
        error_of(await gateway.ask(key=key), 401, "invalid_api_key")
    assert (await gateway.ask()).status_code == 200
    events = await gateway.rows("select payload from gateway.outbox where event = 'key.leaked'")
    assert {json.loads(row["payload"])["ended"] for row in events} == {"key", "session"}
    assert len(await gateway.rows("select from gateway.audit_logs where action = 'key.leaked'")) == 2


async def test_a_report_that_is_not_signed_is_refused(gateway: InProcess, scanner: Scanner, upstream: Upstream):
    report, foreign = a_report(gateway.key), Scanner()
    good = scanner.headers(report)
    identifier, signature = good.values()
    bad: list[tuple[bytes, dict[str, str]]] = [
        (report, {}),
        (report, {"github-public-key-identifier": identifier}),
        (report, {"github-public-key-signature": signature}),
        (report, good | {"github-public-key-signature": "x" * 200}),
        (report, good | {"github-public-key-signature": "!"}),
        (report, good | {"github-public-key-identifier": "another"}),
        (report, good | {"github-public-key-signature": "AAAA"}),
        (report, good | {"github-public-key-signature": "A"}),
        (report, foreign.headers(report)),
        (report + b" ", good),
    ]
    for body, headers in bad:
        error_of(await reported(gateway, body, headers), 401, "invalid_api_key")
    assert set(gateway.line.calls) == {"record_refusal"}
    assert len(upstream.requests) == 1
    assert (await gateway.ask()).status_code == 200


@pytest.mark.parametrize(
    "report",
    [
        b"{}",
        b"[1]",
        b'[{"type": "x"}]',
        b"[" * 50_000,
        b'[{"deep": ' + b"[" * 50_000,
        b"\xff",
        b'[{"token": "\\ud800"}]',
    ],
)
async def test_a_signed_report_that_is_none(gateway: InProcess, scanner: Scanner, report: bytes):
    error_of(await reported(gateway, report, scanner.headers(report)), 400, "invalid_request_error")


async def test_a_report_that_is_too_large_is_not_looked_at(gateway: InProcess, scanner: Scanner, upstream: Upstream):
    report = b"[" + b" " * (1 << 20) + b"]"
    error_of(await reported(gateway, report, scanner.headers(report)), 413, "payload_too_large")
    assert upstream.requests == []


async def test_a_scanner_whose_keys_cannot_be_had(gateway: InProcess, scanner: Scanner, upstream: Upstream):
    upstream.will(whole(b"", 500))
    report = a_report(gateway.key)
    error_of(await reported(gateway, report, scanner.headers(report)), 503, "no_provider_available")
    assert gateway.line.calls == []
