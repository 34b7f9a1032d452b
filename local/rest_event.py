"""The event that API Gateway's REST API makes of a request.

https://docs.aws.amazon.com/apigateway/latest/developerguide/set-up-lambda-proxy-integrations.html
"""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from local.cloudformation import ACCOUNT

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from local.wire import Connection

STAGE = "local"
IDENTITY = (
    *("accessKey", "accountId", "caller", "cognitoAuthenticationProvider", "cognitoAuthenticationType"),
    *("cognitoIdentityId", "cognitoIdentityPoolId", "principalOrgId", "user", "userArn"),
)
"""What API Gateway tells of callers that AWS knows; here it knows none."""


def rest_event(
    connection: Connection, body: bytes, resource: str, parameters: Mapping[str, str], request_id: str
) -> dict[str, Any]:
    """The event of the request on this connection, which `resource` of the API was found for."""
    path, _, query = connection.target.partition("?")
    headers = _grouped([*connection.lines, *_forwarded(connection)])
    values = _grouped(parse_qsl(query, keep_blank_values=True))
    text, is_base64 = _body(body)
    return {
        "resource": resource,
        "path": path,
        "httpMethod": connection.method,
        "headers": {name: lines[-1] for name, lines in headers.items()},
        "multiValueHeaders": headers,
        "queryStringParameters": {name: several[-1] for name, several in values.items()} or None,
        "multiValueQueryStringParameters": values or None,
        "pathParameters": dict(parameters) or None,
        "stageVariables": None,
        "requestContext": _context(connection, path, resource, request_id),
        "body": text,
        "isBase64Encoded": is_base64,
    }


def _context(connection: Connection, path: str, resource: str, request_id: str) -> dict[str, Any]:
    now = datetime.now(UTC)
    caller = {"sourceIp": connection.peer, "userAgent": connection.header("user-agent")}
    return {
        "accountId": ACCOUNT,
        "apiId": "local",
        "domainName": "localhost",
        "domainPrefix": "localhost",
        "extendedRequestId": request_id,
        "httpMethod": connection.method,
        "identity": {**dict.fromkeys(IDENTITY), **caller},
        "path": f"/{STAGE}{path}",
        "protocol": "HTTP/1.1",
        "requestId": request_id,
        "requestTime": now.strftime("%d/%b/%Y:%H:%M:%S +0000"),
        "requestTimeEpoch": int(now.timestamp() * 1000),
        "resourceId": "local",
        "resourcePath": resource,
        "stage": STAGE,
    }


def _forwarded(connection: Connection) -> list[tuple[str, str]]:
    return [("X-Forwarded-For", connection.peer), ("X-Forwarded-Proto", "https"), ("X-Forwarded-Port", "443")]


def _grouped(pairs: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for name, value in pairs:
        groups.setdefault(name, []).append(value)
    return groups


def _body(body: bytes) -> tuple[str | None, bool]:
    try:
        return body.decode() or None, False
    except UnicodeDecodeError:
        return base64.b64encode(body).decode(), True
