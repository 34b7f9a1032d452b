"""The errors that callers are shown: a closed tree, documented as it is."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

import msgspec
import pytest

from gateway import errors
from gateway.errors import CODES, GatewayError, refusal

LINE = re.compile(r"^([│ ]*)(?:[├└]── )?(\w+)\s+(\d{3}) (\w+)(\s+transient)?$", re.MULTILINE)
ALL = sorted(CODES.values(), key=lambda kind: kind.code)


def test_the_documented_tree_is_the_tree():
    """Every line of the docstring: its class, parent, status, code and whether it passes."""
    ancestors = ["GatewayError"]
    documented = {}
    for indent, name, status, code, transient in LINE.findall(errors.__doc__ or ""):
        depth = len(indent) // 4 + 1
        ancestors[depth:] = [name]
        documented[name] = (ancestors[depth - 1], int(status), code, bool(transient))
    kinds = [kind for kind in ALL if kind is not GatewayError and kind.code != "internal_error"] + [
        errors.InternalError
    ]
    actual = {kind.__name__: (kind.__mro__[1].__name__, kind.status, kind.code, kind.transient) for kind in kinds}
    assert documented == actual


@pytest.mark.parametrize("kind", ALL)
def test_every_error_has_the_documented_body(kind: type[GatewayError]):
    error = kind(param="model", provider_code="x")
    body = msgspec.json.decode(msgspec.json.encode(error.body("req_1")))
    assert set(body) == {"error", "detail", "status_code", "request_id", "timestamp"}
    assert body["request_id"] == "req_1"
    assert body["status_code"] == kind.status
    assert body["detail"] == body["error"]["message"] == str(error) == kind.text
    assert datetime.fromisoformat(body["timestamp"]).utcoffset() is not None
    assert set(body["error"]) == {"message", "type", "param", "code", "metadata"}
    assert (body["error"]["code"], body["error"]["param"]) == (kind.code, "model")
    assert body["error"]["metadata"] == {"error_type": kind.type, "retryable": kind.transient, "provider_code": "x"}


@pytest.mark.parametrize("kind", ALL)
def test_sdks_retry_what_is_transient_and_nothing_else(kind: type[GatewayError]):
    """OpenAI's SDKs retry 408, 409, 429 and 5xx unless x-should-retry says otherwise; 402 never."""
    if kind.status == 402:
        return
    told = kind().headers().get("x-should-retry")
    by_status = kind.status in (408, 409, 429) or kind.status >= 500
    assert (told == "true" if told else by_status) is (kind.transient or kind is GatewayError)


@pytest.mark.parametrize(("ms", "seconds"), [(0, "1"), (1, "1"), (1000, "1"), (1001, "2"), (119_001, "120")])
def test_retry_after_is_whole_seconds_rounded_up(ms: int, seconds: str):
    headers = errors.RateLimitExceeded(retry_after_ms=ms, scope="user").headers()
    assert headers["retry-after"] == seconds
    assert headers["retry-after-ms"] == str(max(1, ms))
    assert headers["x-ratelimit-scope"] == "user"


def test_headers_that_say_nothing_are_left_out():
    assert errors.InvalidRequest().headers() == {}
    assert errors.KeyExpired().headers() == {"www-authenticate": "Bearer"}


@pytest.mark.parametrize("code", CODES)
def test_a_database_refusal_is_its_error(code: str):
    detail: dict[str, Any] = {"message": "told", "retry_after_ms": 5, "param": "n", "limit_source": "key"}
    error = refusal(code, detail)
    assert type(error) is CODES[code]
    assert (error.message, error.retry_after_ms, error.param) == ("told", 5, "n")
    assert error.metadata == {"limit_source": "key"}


def test_a_foreign_code_is_no_refusal():
    assert refusal("relation_missing", {"message": "CANARY"}) is None


def test_codes_are_unique():
    def tree(kind: type[GatewayError]) -> list[type[GatewayError]]:
        return [kind, *(found for child in kind.__subclasses__() for found in tree(child))]

    codes = [kind.code for kind in tree(GatewayError) if kind is not GatewayError]
    assert len(codes) == len(set(codes)) == len(CODES)
