"""POST /v1/quote: what a completion would cost, said before and not exceeded after."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from gateway.money import NANO
from tests.functions.test_errors import error_of
from tests.harness.gateway import HELLO

if TYPE_CHECKING:
    import httpx

    from tests.harness.gateway import InProcess


async def quote(gateway: InProcess, key: str | None = None, **body: Any) -> httpx.Response:
    wanted = {"model": "sandbox/chat", "messages": HELLO, **body}
    return await gateway.client.post("/v1/quote", headers=gateway.headers(key=key), json=wanted)


@pytest.mark.parametrize("tiered", [False, True], ids=["", "tiered"])
@pytest.mark.parametrize("body", [{}, {"max_tokens": 5}, {"n": 3, "max_tokens": 7}], ids=str)
async def test_a_quote_is_what_admission_holds_and_nothing_is_held(
    gateway: InProcess, body: dict[str, Any], *, tiered: bool
):
    tier = {"above_tokens": 1, "prompt_price": 150000000, "completion_price": 900000000}
    tiers = [tier | {"cache_read_price": 150000000, "cache_write_price": 400000000}]
    if tiered:
        await gateway.books.execute("update gateway.offers set tiers = $1", json.dumps(tiers))
    before = await gateway.tables()
    quoted = (await quote(gateway, **body)).json()
    assert await gateway.tables() == before
    await gateway.ask(**body)
    await gateway.ended()
    held = await gateway.books.fetchval("select bound_nano from gateway.credit_holds")
    cost = await gateway.books.fetchval("select cost_nano from gateway.credit_holds")
    assert Decimal(quoted["max_cost_usd"]) * NANO == held
    assert 0 < cost <= held
    assert quoted["is_affordable"]
    offer = quoted["offers"][0]
    assert (offer["provider"], offer["pricing"]["prompt"]) == ("sandbox", "0.00000015")
    assert 0 < Decimal(offer["likely_cost_usd"]) <= Decimal(offer["max_cost_usd"])


async def test_what_cannot_be_paid_is_quoted_all_the_same(gateway: InProcess):
    poor = await gateway.customer(1)
    quoted = (await quote(gateway, poor)).json()
    assert (quoted["is_affordable"], quoted["available_usd"]) == (False, "0.000000001")


async def test_what_would_be_refused_is_not_quoted(gateway: InProcess):
    error_of(await quote(gateway, model="nobody/nothing"), 404, "model_not_found")
    error_of(await quote(gateway, messages=[]), 400, "invalid_request_error")
    error_of(await quote(gateway, "gw_dev_x"), 401, "invalid_api_key")
