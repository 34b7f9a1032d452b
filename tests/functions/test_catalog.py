"""GET /v1/models and /v1/models/{id}: what is sold, in OpenAI's shape with OpenRouter's members. Public."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from tests.functions.test_errors import error_of

if TYPE_CHECKING:
    from tests.harness.gateway import InProcess


async def test_the_list(gateway: InProcess):
    response = await gateway.client.get("/v1/models")
    told = response.json()
    assert told.keys() == {"object", "data"}
    assert told["object"] == "list"
    ids = [model["id"] for model in told["data"]]
    assert ids == sorted(ids)
    assert {"sandbox/chat", "openai/gpt-4o-mini"} <= set(ids)
    assert len(ids) == len(set(ids))


async def test_a_model(gateway: InProcess):
    model = (await gateway.client.get("/v1/models/openai/gpt-4o-mini")).json()
    created = model.pop("created")
    assert type(created) is int
    assert model == {
        "id": "openai/gpt-4o-mini",
        "object": "model",
        "owned_by": "openai",
        "name": "GPT-4o mini",
        "description": "OpenAI's small multimodal model.",
        "context_length": 128000,
        "max_output_tokens": 16384,
        "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"]},
        "pricing": {"prompt": "0.00000015", "completion": "0.0000006", "request": "0"},
        "providers": ["openrouter", "portkey"],
    }


async def test_prices_are_the_ones_that_are_charged(gateway: InProcess):
    pricing = (await gateway.client.get("/v1/models/sandbox/chat")).json()["pricing"]
    spent = (await gateway.ask()).json()["usage"]
    cost = Decimal(pricing["prompt"]) * spent["prompt_tokens"]
    cost += Decimal(pricing["completion"]) * spent["completion_tokens"]
    assert Decimal(str(spent["cost"])) == cost
    await gateway.ended()


async def test_what_is_not_sold_is_not_shown(gateway: InProcess):
    await gateway.books.execute("update gateway.offers set prompt_price = null where model_id = 'sandbox/chat'")
    await gateway.books.execute("update gateway.models set is_active = false where id = 'sandbox/cut'")
    ids = {model["id"] for model in (await gateway.client.get("/v1/models")).json()["data"]}
    assert not {"sandbox/chat", "sandbox/cut"} & ids
    error_of(await gateway.client.get("/v1/models/sandbox/chat"), 404, "model_not_found")


@pytest.mark.parametrize("path", ["nothing", "openai%2Fgpt-4o-min", "openai/../x", "%00", "💥", "x" * 5000])
async def test_no_such_model(gateway: InProcess, path: str):
    response = await gateway.client.get(f"/v1/models/{path}")
    assert response.status_code == 404
    assert path not in response.text


async def test_an_id_may_be_escaped(gateway: InProcess):
    assert (await gateway.client.get("/v1/models/openai%2Fgpt-4o-mini")).json()["id"] == "openai/gpt-4o-mini"


async def test_the_database_is_away(gateway: InProcess):
    gateway.line.cut = {"models"}
    for path in ("/v1/models", "/v1/models/sandbox/chat"):
        response = await gateway.client.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "database_unavailable")
