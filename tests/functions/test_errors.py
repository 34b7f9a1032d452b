"""Every refusal that a caller of these routes can meet: its status, its code, its headers, and one body for all."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from gateway.http import reply
from gateway.scopes import Scope
from tests.harness.gateway import GPT, InProcess, delta
from tests.harness.upstream import Fault, Upstream, streamed
from tests.runtime.waiting import until

if TYPE_CHECKING:
    import httpx

TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "insufficient_credits",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    409: "invalid_request_error",
    413: "invalid_request_error",
    422: "invalid_request_error",
    429: "rate_limit_error",
    502: "provider_error",
    503: "provider_error",
    504: "provider_error",
}

ALLOWED = {
    "/v1/chat/completions": "POST",
    "/v1/models": "GET",
    "/v1/credits": "GET",
    "/v1/key": "GET",
    "/health": "GET",
    "/v1/responses/x": "DELETE, GET, HEAD",
}
"""What `Allow` says at these addresses."""


def error_of(response: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """The `error` member of a refusal, whose body and headers must be as documented."""
    body = response.json()
    is_anthropics = response.url.path == "/v1/messages"
    assert (response.status_code, body["error"]["code"]) == (status, code)
    assert (body.pop("type", None) == "error") == is_anthropics
    assert body.keys() == {"error", "detail", "status_code", "request_id", "timestamp"}
    error: dict[str, Any] = body["error"]
    assert error.keys() == {"message", "type", "param", "code", "metadata"}
    assert (error["message"], status) == (body["detail"], body["status_code"])
    assert body["request_id"] == response.headers["x-request-id"]
    assert datetime.fromisoformat(body["timestamp"]).tzinfo is not None
    assert error["metadata"]["error_type"] == TYPES[status]
    assert is_anthropics or error["type"] == TYPES[status]
    transient = status in (429, 502, 503, 504) or code in ("in_flight_budget", "idempotency_in_progress")
    assert error["metadata"]["retryable"] is transient
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "no-store"
    assert "strict-transport-security" in response.headers
    return error


async def unchanged(gateway: InProcess, before: dict[str, list[str]]) -> None:
    assert await gateway.tables() == before
    assert gateway.line.calls.count("settle") == 0


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ("api_keys set scopes = '{account:read}'", 403, "insufficient_scope", None),
        ("api_keys set ip_allowlist = '{203.0.113.0/24}'", 403, "ip_not_allowed", None),
        ("api_keys set referers = '{example.com}'", 403, "referer_not_allowed", None),
        ("api_keys set allowed_models = '{openai/gpt-4o-mini}'", 403, "model_not_allowed", "model"),
        ("api_keys set status = 'revoked'", 401, "invalid_api_key", None),
        ("api_keys set expires_at = now()", 401, "expired_api_key", None),
        ("api_keys set limit_nano = 1", 402, "key_limit_reached", None),
        ("models set is_active = false", 404, "model_not_found", "model"),
        ("offers set prompt_price = null", 400, "model_not_priced", "model"),
        ("offers set prompt_price = 0, completion_price = 0", 400, "model_not_priced", "model"),
        ("offers set is_active = false", 503, "no_provider_available", None),
    ],
)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_refused_at_admission(
    gateway: InProcess, change: str, status: int, code: str, param: str | None, *, stream: bool
):
    await gateway.books.execute(f"update gateway.{change}")
    before = await gateway.tables()
    response = await gateway.ask(stream=stream)
    error = error_of(response, status, code)
    assert error["param"] == param
    assert (response.headers.get("retry-after") is not None) == (status == 503)
    assert (response.headers.get("www-authenticate") == "Bearer") == (status == 401)
    await unchanged(gateway, before)


async def test_a_key_may_be_used_where_it_is_allowed(gateway: InProcess):
    allowed = "ip_allowlist = '{127.0.0.0/8}', referers = '{*.example.com}', allowed_models = '{sandbox/chat}'"
    await gateway.books.execute(f"update gateway.api_keys set {allowed}")  # noqa: S608
    assert (await gateway.ask({"referer": "https://app.example.com/x"})).status_code == 200
    error_of(await gateway.ask({"referer": "https://example.com.evil.org/"}), 403, "referer_not_allowed")
    error_of(await gateway.ask({"referer": "https://app.example.com"}, models=[GPT]), 403, "model_not_allowed")


async def test_no_such_model(gateway: InProcess):
    before = await gateway.tables()
    for name in ("nobody/nothing", "SANDBOX/CHAT", "sandbox/chat ", "openai/../sandbox/chat", "auto", "x" * 256):
        error = error_of(await gateway.ask(model=name), 404, "model_not_found")
        assert error["param"] == "model"
        assert name not in error["message"]
    await unchanged(gateway, before)


async def test_nobody_has_a_key_for_its_provider(gateway: InProcess):
    before = await gateway.tables()
    response = await gateway.ask(model=GPT)
    error_of(response, 503, "no_provider_available")
    assert response.headers["retry-after"] == "5"
    await unchanged(gateway, before)


async def test_no_credit(gateway: InProcess):
    await gateway.customer(1)
    before = await gateway.tables()
    response = await gateway.ask()
    error = error_of(response, 402, "insufficient_credits")
    assert error["metadata"]["limit_source"] == "balance"
    assert "retry-after" not in response.headers
    await unchanged(gateway, before)


async def test_too_many_requests(gateway: InProcess):
    limit = "insert into gateway.rate_limit_configs (user_id, requests_per_minute) values ($1, 1)"
    await gateway.books.execute(limit, gateway.user_id)
    first = await gateway.ask()
    assert (first.headers["x-ratelimit-reset-requests"], first.headers["x-ratelimit-remaining"]) == ("1m0s", "0")
    await gateway.ended()
    before = await gateway.tables()
    response = await gateway.ask()
    error = error_of(response, 429, "rate_limit_exceeded")
    assert (error["metadata"]["scope"], error["metadata"]["limit"]) == ("user", "requests")
    assert response.headers["x-ratelimit-scope"] == "user"
    assert 1 <= int(response.headers["retry-after"]) <= 60
    assert int(response.headers["retry-after"]) == -(-int(response.headers["retry-after-ms"]) // 1000)
    assert await gateway.tables() == before


async def test_too_many_tokens(gateway: InProcess):
    limit = "insert into gateway.rate_limit_configs (user_id, tokens_per_minute) values ($1, 100)"
    await gateway.books.execute(limit, gateway.user_id)
    assert (await gateway.ask()).status_code == 200
    await gateway.ended()
    error = error_of(await gateway.ask(), 429, "rate_limit_exceeded")
    assert error["metadata"]["limit"] == "tokens"


async def test_too_many_at_once(gateway: InProcess, upstream: Upstream, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reply, "READ_ON_S", 0.05)
    limit = "insert into gateway.rate_limit_configs (user_id, concurrency) values ($1, 1)"
    await gateway.books.execute(limit, gateway.user_id)
    gateway.connect("openrouter", upstream.url)
    upstream.will(streamed(delta("One"), Fault.STALL))
    async with gateway.reading(model=GPT) as chunks:
        await anext(chunks)
        response = await gateway.ask()
        error = error_of(response, 429, "concurrency_limit_exceeded")
        assert error["metadata"]["scope"] == "user"
        assert response.headers["retry-after"] == "1"
    await gateway.ended()
    assert (await gateway.ask()).status_code == 200
    await until(lambda: gateway.line.calls.count("settle") == 2)


async def test_addresses_and_methods(gateway: InProcess):
    calls = {
        ("GET", "/"): (404, "not_found"),
        ("GET", "/v1"): (404, "not_found"),
        ("POST", "/v1/chat/completion"): (404, "not_found"),
        ("POST", "/v1/chat/completions/"): (404, "not_found"),
        ("POST", "//v1/chat/completions"): (404, "not_found"),
        ("POST", "/V1/CHAT/COMPLETIONS"): (404, "not_found"),
        ("GET", "/admin"): (404, "not_found"),
        ("GET", "//admin"): (404, "not_found"),
        ("GET", "/ADMIN"): (404, "not_found"),
        ("GET", "/admin%2fx"): (404, "not_found"),
        ("GET", "/v1/..;/admin"): (404, "not_found"),
        ("GET", "/v1/models/"): (404, "model_not_found"),
        ("GET", "/v1/credits/"): (404, "not_found"),
        ("GET", "/docs"): (404, "not_found"),
        ("GET", "/openapi.json"): (404, "not_found"),
        ("GET", "/v1/chat/completions"): (405, "method_not_allowed"),
        ("PUT", "/v1/chat/completions"): (405, "method_not_allowed"),
        ("DELETE", "/v1/models"): (405, "method_not_allowed"),
        ("POST", "/v1/credits"): (405, "method_not_allowed"),
        ("TRACE", "/v1/key"): (405, "method_not_allowed"),
        ("POST", "/health"): (405, "method_not_allowed"),
        ("PATCH", "/v1/responses/x"): (405, "method_not_allowed"),
    }
    before = await gateway.tables()
    for (method, path), (status, code) in calls.items():
        response = await gateway.client.request(method, path, headers=gateway.headers())
        error_of(response, status, code)
        assert response.headers.get("allow") == ALLOWED.get(path if status == 405 else "")
    for path in ("/v1/chat/completions", "/v1/models", "/v1/credits", "/nothing"):
        response = await gateway.client.head(path, headers=gateway.headers())
        assert response.status_code in (404, 405)
        assert "x-request-id" in response.headers
    assert await gateway.tables() == before


async def test_scopes_of_the_account(gateway: InProcess):
    gateway.key = await gateway.a_key("dev", Scope.INFERENCE)
    for path in ("/v1/credits", "/v1/key"):
        error_of(await gateway.client.get(path, headers=gateway.headers()), 403, "insufficient_scope")
    assert (await gateway.ask()).status_code == 200
