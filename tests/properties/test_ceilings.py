"""Whatever is asked, in whatever dialect and of whatever provider: what goes out cannot cost more than what is held."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway import providers
from gateway.credits import Offer
from gateway.inference import metering, requests
from tests.harness.builders import UNLIMITED
from tests.harness.gateway import answer
from tests.harness.upstream import whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.harness.gateway import InProcess
    from tests.harness.upstream import Upstream

EXAMPLES = settings(
    max_examples=500 if os.environ.get("CI") else 150, deadline=None, suppress_health_check=list(HealthCheck)
)
MOST_OUTPUT = 500
PROMPT_PRICE, COMPLETION_PRICE, REQUEST_PRICE = 1_000_000_000, 2_000_000_000, 3_000_000_000
"""Nano-dollars per million; each is large enough to be missed."""
MOST_USD = (None, "0.0005", "0.00015")
"""What a request may cost: all, half, and some of what it could."""
ROUTES = {"chat": "/v1/chat/completions", "responses": "/v1/responses", "messages": "/v1/messages"}
SPOKEN = ("messages", "tools", "response_format")
"""Members in which a name of a ceiling is a caller's own word."""
TOKENS = st.one_of(st.integers(1, 30), st.sampled_from([499, 500, 501, 90_000]))
TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1, max_size=30)
NAMES = ("max_tokens", "max_completion_tokens", "max_output_tokens", "best_of", "min_tokens", "n_predict")
ONE = st.sampled_from([("max_tokens",), ("max_completion_tokens",), ("max_tokens", "max_completion_tokens")])
CEILINGS = st.one_of(
    st.builds(dict.fromkeys, ONE, TOKENS),
    st.builds(dict.fromkeys, ONE, st.just(90_000)),
    st.dictionaries(st.sampled_from(NAMES), TOKENS, max_size=2),
)
BUDGETS = st.fixed_dictionaries({}, optional={
    "reasoning": st.builds(lambda tokens: {"max_tokens": tokens}, TOKENS),
    "thinking": st.builds(lambda tokens: {"type": "enabled", "budget_tokens": tokens}, TOKENS),
    "options": st.builds(lambda tokens: {"num_predict": tokens}, TOKENS),
})  # fmt: skip
TOOL = {"name": "max_tokens", "parameters": {"properties": {"max_length": {"type": "integer"}}}}
EXTRAS = st.fixed_dictionaries({}, optional={
    "temperature": st.floats(0, 2),
    "top_k": st.integers(1, 50),
    "stop": TEXTS,
    "seed": st.integers(0, 10),
    "metadata": st.just({"max_tokens": "9"}),
})  # fmt: skip


@st.composite
def asked(draw: st.DrawFn) -> tuple[str, dict[str, Any]]:
    """A route and a body for it."""
    route = draw(st.sampled_from(sorted(ROUTES)))
    raising = st.one_of(st.just({}), CEILINGS, BUDGETS)
    body: dict[str, Any] = draw(EXTRAS) | draw(raising) | draw(raising)
    text = draw(TEXTS)
    if route == "responses":
        body |= {"input": text, "store": False}
        body.pop("stop", None)
    else:
        body["messages"] = [{"role": "user", "content": text}]
    if route == "messages":
        body = {"max_tokens": draw(TOKENS), **body}
        body.pop("stop", None)
        body.pop("metadata", None)
    if route == "chat" and draw(st.booleans()):
        body |= {"n": draw(st.integers(1, 4)), "tools": [{"type": "function", "function": TOOL}]}
    return route, body


def ceilings(value: Any, *, within: bool = False) -> list[tuple[str, Any]]:
    """Every ceiling that a body names, at any depth, outside of what its caller says."""
    found = []
    for name, member in value.items() if isinstance(value, dict) else ():
        if name in (*NAMES, "num_predict", "budget_tokens"):
            found.append((name, member))
        if within or name not in (*SPOKEN, "metadata"):
            found += ceilings(member, within=True)
    return found


def most_nano(sent: dict[str, Any], offer: Offer) -> int:
    """The most that a provider can charge for what it was sent."""
    spoken = {name: sent[name] for name in SPOKEN if name in sent}
    request = requests.read(sent, requests.CompletionRequest)
    bounds = metering.bounds(request, len(msgspec.json.encode(spoken)))
    return metering.bound_nano(bounds, max(tokens for _, tokens in ceilings(sent)) * (sent.get("n") or 1), offer)


def offer_of(name: str) -> Offer:
    own = f"of/{name}"
    prices = PROMPT_PRICE, COMPLETION_PRICE, REQUEST_PRICE, PROMPT_PRICE, PROMPT_PRICE
    return Offer(own, name, own, MOST_OUTPUT, *prices)


async def sell(gateway: InProcess, name: str) -> None:
    """A model of a provider's own."""
    await gateway.books.execute(
        "insert into gateway.models (id, name, context_length, max_output_tokens) values ($1, $1, 8000, $2)",
        f"of/{name}", MOST_OUTPUT,
    )  # fmt: skip
    await gateway.books.execute(
        "insert into gateway.offers (model_id, provider, upstream_id, prompt_price, completion_price, request_price)"
        " values ($1, $2, $1, $3, $4, $5)",
        f"of/{name}", name, PROMPT_PRICE, COMPLETION_PRICE, REQUEST_PRICE,
    )  # fmt: skip


class Shop:
    """A gateway that sells a model of each provider, all of which are at one address; and what it served."""

    def __init__(self, gateway: InProcess, upstream: Upstream) -> None:
        self.gateway, self.upstream = gateway, upstream
        self.served: set[tuple[str, str]] = set()


@pytest.fixture
async def shop(gateway: InProcess, upstream: Upstream) -> AsyncIterator[Shop]:
    await gateway.books.execute(UNLIMITED)
    for name in providers.ADAPTERS:
        gateway.connect(name, upstream.url)
        await sell(gateway, name)
    upstream.will(whole(answer()))
    open_shop = Shop(gateway, upstream)
    yield open_shop
    assert {route for route, _ in open_shop.served} == set(ROUTES)
    assert {name for _, name in open_shop.served} == set(providers.ADAPTERS)


@EXAMPLES
@given(request=asked(), name=st.sampled_from(sorted(providers.ADAPTERS)), most_usd=st.sampled_from(MOST_USD))
async def test_what_is_sent_cannot_cost_more_than_is_held(
    shop: Shop, request: tuple[str, dict[str, Any]], name: str, most_usd: str | None
):
    (route, body), gateway, asked_before = request, shop.gateway, len(shop.upstream.requests)
    headers = gateway.headers({"x-max-cost-usd": most_usd} if most_usd else None)
    answered = await gateway.client.post(ROUTES[route], headers=headers, json={"model": f"of/{name}", **body})
    if answered.status_code != 200:
        assert (answered.status_code, len(shop.upstream.requests)) == (400, asked_before), answered.text
        return
    sent, generation = shop.upstream.requests[-1].json(), answered.headers["x-generation-id"].removeprefix("gen-")
    held = await gateway.books.fetchval("select bound_nano from gateway.credit_holds where id = $1", generation)
    assert [ceiling for ceiling, _ in ceilings(sent) if ceiling in NAMES[:2]][-1:] == [gateway.providers[name].ceiling]
    assert most_nano(sent, offer_of(name)) <= held
    shop.served.add((route, name))
