"""What a provider is asked for is what was held, and leaves the prompt its room."""

from __future__ import annotations

import json
from typing import Any

import pytest

from gateway.inference import metering
from gateway.inference.requests import CompletionRequest, read
from tests.harness.gateway import GPT, InProcess, answer
from tests.harness.upstream import Upstream, whole


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({}, 16384),
        ({"max_tokens": 5}, 5),
        ({"max_completion_tokens": 5}, 5),
        ({"max_tokens": 5, "max_completion_tokens": 5}, 5),
        ({"max_tokens": 90_000}, 16384),
        ({"max_completion_tokens": 90_000}, 16384),
    ],
)
async def test_the_provider_is_asked_for_no_more_than_was_held(
    gateway: InProcess, upstream: Upstream, asked: dict[str, Any], sent: int
):
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(answer()))
    response = await gateway.ask(model=GPT, **asked)
    body = upstream.requests[0].json()
    assert (body["max_tokens"], body.get("max_completion_tokens")) == (sent, None)
    assert "x-gateway-max-tokens" not in response.headers
    assert await gateway.rows("select bound_nano from gateway.credit_holds where bound_nano < $1", sent * 600) == []


@pytest.mark.parametrize(
    ("context", "sent"),
    [
        (128_000, 16_384),  # room for both: the model's own ceiling
        (9_000, lambda bound, _likely: 9_000 - bound),
        (
            5_000,
            lambda _bound, likely: (5_000 - likely) // 2,
        ),  # the prompt's bound fills the context, the prompt does not
        (100, 16_384),  # it does not fit, and its provider says so
    ],
)
async def test_without_a_ceiling_the_answer_is_asked_for_within_the_models_context(
    gateway: InProcess, upstream: Upstream, context: int, sent: Any
):
    await gateway.books.execute("update gateway.models set context_length = $1 where id = $2", context, GPT)
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(answer()))
    asked = {"model": GPT, "messages": [{"role": "user", "content": "tide " * 1000}]}
    raw = json.dumps(asked).encode()
    await gateway.client.post("/v1/chat/completions", content=raw, headers=gateway.headers())
    bounds = metering.bounds(read(asked, CompletionRequest), len(raw))
    expected = sent(bounds.prompt_tokens, bounds.likely_prompt_tokens) if callable(sent) else sent
    assert upstream.requests[0].json()["max_tokens"] == expected
