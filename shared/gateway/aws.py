"""One signed call to an AWS JSON service, without an SDK: boto3 costs a cold start 240 ms and is not for hot functions.

Signature Version 4: https://docs.aws.amazon.com/IAM/latest/UserGuide/reference_sigv-create-signed-request.html
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import msgspec

TIMEOUT_S = 10


class AwsError(RuntimeError):
    """An AWS service refused a call or could not be reached; shows the call and the status, never the answer."""


class Account(msgspec.Struct, frozen=True):
    """Where calls go and what they are signed with. `endpoints` replaces a service's address (local doubles)."""

    region: str
    access_key: str
    secret_key: str
    token: str
    endpoints: Mapping[str, str]

    def __repr__(self) -> str:
        return f"Account(region={self.region!r})"


def account(environ: Mapping[str, str]) -> Account:
    """The account of a Lambda environment, by AWS's own variable names."""
    return Account(
        region=environ.get("AWS_REGION", ""),
        access_key=environ.get("AWS_ACCESS_KEY_ID", ""),
        secret_key=environ.get("AWS_SECRET_ACCESS_KEY", ""),
        token=environ.get("AWS_SESSION_TOKEN", ""),
        endpoints={
            service: environ[name]
            for service, name in (
                ("events", "AWS_ENDPOINT_URL_EVENTS"),
                ("sqs", "AWS_ENDPOINT_URL_SQS"),
                ("secretsmanager", "AWS_ENDPOINT_URL_SECRETS_MANAGER"),
            )
            if name in environ
        },
    )


def secret(owner: Account, arn: str) -> dict[str, str]:
    """The members of a JSON secret in Secrets Manager. Raises AwsError."""
    answer = call(owner, "secretsmanager", "secretsmanager.GetSecretValue", {"SecretId": arn}, version="1.1")
    try:
        return msgspec.json.decode(answer["SecretString"], type=dict[str, str])
    except (KeyError, msgspec.DecodeError):
        raise AwsError("a secret is not a JSON object of strings") from None


def call(owner: Account, service: str, target: str, payload: dict[str, Any], *, version: str) -> Any:
    """POST one `X-Amz-Target` call (blocking) and decode its answer. Raises AwsError."""
    url = owner.endpoints.get(service, f"https://{service}.{owner.region}.amazonaws.com/")
    parts = urlsplit(url)
    assert parts.hostname, "an endpoint has a host"
    body = msgspec.json.encode(payload)
    headers = sign(owner, service, parts.netloc, target, body, version=version, now=datetime.now(UTC))
    secure = parts.scheme == "https"
    connect = http.client.HTTPSConnection if secure else http.client.HTTPConnection
    connection = connect(parts.hostname, parts.port, timeout=TIMEOUT_S)
    try:
        connection.request("POST", "/", body, headers)
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise AwsError(f"{target} could not be reached") from error
    finally:
        connection.close()
    if response.status != 200:
        raise AwsError(f"{target} answered {response.status}")
    try:
        return msgspec.json.decode(answer)
    except msgspec.DecodeError as error:
        raise AwsError(f"{target} answered something that is not JSON") from error


def sign(
    owner: Account, service: str, host: str, target: str, body: bytes, *, version: str, now: datetime
) -> dict[str, str]:
    """The headers of one call: its own and the signature over all of them."""
    stamp = now.strftime("%Y%m%dT%H%M%SZ")
    headers = {
        "content-type": f"application/x-amz-json-{version}",
        "host": host,
        "x-amz-date": stamp,
        "x-amz-target": target,
    }
    if owner.token:
        headers["x-amz-security-token"] = owner.token
    names = ";".join(sorted(headers))
    lines = [f"{name}:{headers[name]}" for name in sorted(headers)]
    canonical = "\n".join(["POST", "/", "", *lines, "", names, hashlib.sha256(body).hexdigest()])
    scope = f"{stamp[:8]}/{owner.region}/{service}/aws4_request"
    text = f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashlib.sha256(canonical.encode()).hexdigest()}"
    mac = f"AWS4{owner.secret_key}".encode()
    for part in (stamp[:8], owner.region, service, "aws4_request", text):
        mac = hmac.digest(mac, part.encode(), "sha256")
    credential = f"{owner.access_key}/{scope}"
    headers["authorization"] = f"AWS4-HMAC-SHA256 Credential={credential}, SignedHeaders={names}, Signature={mac.hex()}"
    return headers
