"""What gateway.http.adapter makes of an event, whatever a client put into it."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from gateway.http.adapter import NotAnHttpEvent, Request, lambda_handler
from gateway.http.edge import Edge


def an_event(**members: Any) -> dict[str, Any]:
    return {
        "resource": "/v1/models/{id+}",
        "path": "/v1/models/gpt",
        "httpMethod": "GET",
        "headers": {"Host": "api.example.com"},
        "multiValueHeaders": {"Host": ["api.example.com"]},
        "queryStringParameters": None,
        "multiValueQueryStringParameters": None,
        "requestContext": {"domainName": "api.example.com", "identity": {"sourceIp": "192.0.2.7"}},
        "body": None,
        "isBase64Encoded": False,
        **members,
    }


def with_headers(**lines: list[str]) -> dict[str, Any]:
    names = {name.replace("_", "-"): values for name, values in lines.items()}
    return an_event(headers={name: values[-1] for name, values in names.items()}, multiValueHeaders=names)


def scope_of(event: Any) -> Any:
    return Request(event, None).scope  # type: ignore[arg-type] # the context is only passed on


def values_of(scope: Any, name: bytes) -> list[bytes]:
    return [value for line, value in scope["headers"] if line == name]


@pytest.mark.parametrize("host", ["a:b:c", "[::1]:80", "a:b", "evil/#@x", "", "evil.example", "a\u00e4"])
def test_the_clients_host_is_ignored(host: str):
    scope = scope_of(with_headers(Host=[host, "other"], host=[host], X_Forwarded_Host=["evil.example"]))
    assert scope["server"] == ("api.example.com", 443)
    assert values_of(scope, b"host") == [b"api.example.com"]


def test_the_client_is_who_api_gateway_says():
    scope = scope_of(
        with_headers(
            X_Forwarded_For=["203.0.113.1"], X_Forwarded_Proto=["http"], X_Forwarded_Port=["no"], Forwarded=["for=x"]
        )
    )
    assert scope["client"] == ("192.0.2.7", 0)
    assert (scope["scheme"], scope["server"][1]) == ("https", 443)


@pytest.mark.parametrize(
    "event",
    [
        with_headers(Authorization=["Bearer a", "Bearer b"]),
        with_headers(Authorization=["Bearer a"], authorization=["Bearer b"]),
    ],
)
def test_two_authorization_headers_stay_two(event: dict[str, Any]):
    assert values_of(scope_of(event), b"authorization") == [b"Bearer a", b"Bearer b"]


def test_single_headers_are_used_where_there_are_no_lists():
    scope = scope_of(an_event(headers={"Accept": "a/b"}, multiValueHeaders=None))
    assert values_of(scope, b"accept") == [b"a/b"]
    assert scope_of(an_event(headers=None, multiValueHeaders=None))["headers"] == [(b"host", b"api.example.com")]


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        ("/v1/models/openai/gpt", "/v1/models/openai/gpt"),
        ("/v1/models/openai%2Fgpt", "/v1/models/openai/gpt"),
        ("/v1/models/openai%252Fgpt", "/v1/models/openai%2Fgpt"),
        ("/v1/models/a%20b+c", "/v1/models/a b+c"),
        ("/v1/models/%E2%82%AC", "/v1/models/\N{EURO SIGN}"),
        ("/v1/models/100%", "/v1/models/100%"),
    ],
)
def test_a_path_is_decoded_once(raw: str, path: str):
    scope = scope_of(an_event(path=raw))
    assert (scope["path"], scope["raw_path"]) == (path, raw.encode())


def test_query_values_are_encoded_again():
    scope = scope_of(an_event(multiValueQueryStringParameters={"a": ["1", "2&b=3"], "c": [""]}))
    assert scope["query_string"] == b"a=1&a=2%26b%3D3&c="


def test_the_scope_is_asgi_2_4_and_keeps_what_aws_said():
    event = an_event()
    scope = scope_of(event)
    assert scope["asgi"] == {"version": "3.0", "spec_version": "2.4"}
    assert scope["aws.event"] is event


@pytest.mark.parametrize(
    ("event", "body"),
    [
        (an_event(), b""),
        (an_event(body="t\u00e4xt"), "t\u00e4xt".encode()),
        (an_event(body=base64.b64encode(b"\0\xff").decode(), isBase64Encoded=True), b"\0\xff"),
    ],
)
def test_the_body_is_bytes(event: dict[str, Any], body: bytes):
    assert Request(event, None).body == body  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "event",
    [
        {},
        [],
        None,
        {"job": "sweep"},
        {"Records": [{"eventSource": "aws:sqs"}]},
        {"requestContext": None, "httpMethod": "GET"},
        {"version": "2.0", "requestContext": {"http": {"method": "GET", "path": "/"}}},
    ],
)
def test_other_events_are_refused_by_name(event: Any):
    with pytest.raises(NotAnHttpEvent):
        lambda_handler(Starlette())(event, None)  # type: ignore[arg-type]


async def everything(request: Any) -> Response:
    return JSONResponse(
        {"path": request.url.path, "id": request.path_params["id"], "body": (await request.body()).decode()}
    )


async def loop(_: Any) -> Response:
    return PlainTextResponse(str(id(asyncio.get_running_loop())), headers={"x-text": "caf\u00e9"})


async def problem(_: Any) -> Response:
    return Response('{"title": "caf\u00e9"}', 402, media_type="application/problem+json")


async def binary(_: Any) -> Response:
    return Response(bytes(range(256)), media_type="application/octet-stream")


ROUTES = [
    Route("/loop", loop),
    Route("/problem", problem),
    Route("/binary", binary),
    Route("/{id:path}", everything, methods=["GET", "POST"]),
]
handle = lambda_handler(Starlette(routes=ROUTES))


def answer(event: dict[str, Any]) -> dict[str, Any]:
    return handle(event, None)  # type: ignore[arg-type]


@pytest.mark.process
def test_an_event_of_sam_is_answered():
    sam = Path(sys.executable).parent / "sam"
    printed = subprocess.run(
        [sam, "local", "generate-event", "apigateway", "aws-proxy"], capture_output=True, check=True
    )
    reply = answer(json.loads(printed.stdout))
    assert reply["statusCode"] == 200
    assert json.loads(reply["body"]) == {
        "path": "/path/to/resource",
        "id": "path/to/resource",
        "body": '{"test":"body"}',
    }


def test_all_invocations_share_one_loop():
    replies = [answer(an_event(path="/loop")) for _ in range(3)]
    assert len({reply["body"] for reply in replies}) == 1
    assert replies[0]["headers"]["x-text"] == "caf\u00e9"


@pytest.mark.parametrize(("path", "is_base64"), [("/problem", False), ("/binary", True)])
def test_only_what_is_not_text_is_base64(path: str, *, is_base64: bool):
    assert answer(an_event(path=path))["isBase64Encoded"] is is_base64


@pytest.mark.process
def test_neither_adapter_nor_runtime_imports_a_framework_or_sdk():
    program = "import sys, gateway.http.streaming; print(*sys.modules)"
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, text=True, cwd="shared", env={}
    )
    modules = set(printed.stdout.split())
    assert not modules & {
        "boto3",
        "botocore",
        "httpx",
        "fastapi",
        "pydantic",
        "starlette",
        "h11",
        "aiohttp",
        "requests",
    }
    assert len(modules) < 220


@pytest.mark.parametrize(
    ("character", "count", "status"),
    [
        ("x", 6_200_000, 200),
        ("x", 6_292_000, 413),
        ('"', 3_100_000, 200),
        ('"', 3_150_000, 413),
        ("\n", 3_150_000, 413),
    ],
)
def test_an_answer_that_lambda_would_not_take_is_a_413(character: str, count: int, status: int):
    async def long(_: Any) -> Response:
        return PlainTextResponse(character * count)

    app = Edge(Starlette(routes=[Route("/long", long)]), [])
    reply = lambda_handler(app)(an_event(path="/long"), None)  # type: ignore[arg-type]
    assert reply["statusCode"] == status
    assert len(json.dumps(reply, ensure_ascii=False).encode()) < 6 * 1024 * 1024
    if status == 413:
        assert json.loads(reply["body"])["error"]["code"] == "payload_too_large"
