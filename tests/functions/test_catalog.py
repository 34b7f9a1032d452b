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
        "canonical_slug": "openai/gpt-4o-mini",
        "name": "GPT-4o mini",
        "description": "OpenAI's small multimodal model.",
        "kind": "chat",
        "context_length": 128000,
        "max_output_tokens": 16384,
        "architecture": {"input_modalities": ["text", "image"], "output_modalities": ["text"], "tokenizer": None},
        "pricing": {
            "prompt": "0.00000015", "completion": "0.0000006", "request": "0", "image": "0",
            "input_cache_read": "0.000000075", "input_cache_write": "0.00000015", "internal_reasoning": "0.0000006",
            "overrides": [],
        },
        "top_provider": {"context_length": 128000, "max_completion_tokens": 16384, "is_moderated": False},
        "per_request_limits": None,
        "supported_parameters": [],
        "expiration_date": None,
        "provider": "openrouter",
        "providers": ["openrouter", "portkey"],
    }  # fmt: skip


async def test_an_image_has_its_lowest_price(gateway: InProcess):
    model = (await gateway.client.get("/v1/models/sandbox/image")).json()
    assert (model["kind"], model["architecture"]["output_modalities"]) == ("image", ["image"])
    assert (model["pricing"]["image"], model["pricing"]["request"]) == ("0.04", "0")


FILTERS: dict[str, tuple[str, set[str]]] = {
    "a provider": ("provider=chutes", {"deepseek-ai/DeepSeek-V3"}),
    "as the Gatewayz API says it": ("gateway=featherless", {"meta-llama/llama-3.1-8b-instruct"}),
    "a word": ("q=MIXTURE", {"deepseek-ai/DeepSeek-V3"}),
    "what comes out": ("output_modalities=embeddings", {"sandbox/embedding", "openai/text-embedding-3-small"}),
    "what it takes": ("supported_parameters=tools,seed", {"openai/gpt-4o-mini"}),
    "all of it": ("provider=openrouter&q=llama&gateway=all", {"meta-llama/llama-3.1-8b-instruct"}),
    "nothing": ("q=nobody", set()),
}


@pytest.mark.parametrize("path", ["/models", "/catalog/models"])
async def test_models_are_found(gateway: InProcess, path: str):
    await gateway.books.execute(
        "update gateway.models set supported_parameters = '{tools,seed,top_p}' where id = 'openai/gpt-4o-mini'"
    )
    for name, (query, expected) in FILTERS.items():
        told = (await gateway.client.get(f"{path}?{query}")).json()
        assert {model["id"] for model in told["data"]} == expected, name
        assert told["count"] == told["total_count"] == len(expected)


async def test_pages_follow_one_another_in_the_order_that_is_asked_for(gateway: InProcess):
    found: list[str] = []
    path, count = "/models?limit=5&sort=-price&q=a", 0
    while path:
        told = (await gateway.client.get(path)).json()
        found += [model["id"] for model in told["data"]]
        path, count = told["links"]["next"], told["total_count"]
    assert len(found) == len(set(found)) == count
    models = {each["id"]: each for each in (await gateway.client.get("/models")).json()["data"]}
    prices = [sum(Decimal(models[each]["pricing"][name]) for name in ("prompt", "completion")) for each in found]
    assert prices == sorted(prices, reverse=True)


BAD = (
    "limit=0", "limit=1001", "limit=x", "offset=-1", "sort=colour", "provider=nobody", "q=",
    "supported_parameters=%00", "output_modalities=A;B",
)  # fmt: skip


@pytest.mark.parametrize("query", BAD)
async def test_a_bad_parameter_is_refused(gateway: InProcess, query: str):
    refused = await gateway.client.get(f"/models?{query}")
    assert refused.status_code in {400, 422}
    assert refused.json()["error"]["param"]


async def test_what_has_not_changed_is_not_sent_again(gateway: InProcess):
    first = await gateway.client.get("/models?q=sandbox")
    assert first.headers["cache-control"] == "public, max-age=60"
    again = await gateway.client.get("/models?q=sandbox", headers={"if-none-match": first.headers["etag"]})
    assert (again.status_code, again.content) == (304, b"")
    other = await gateway.client.get("/models?q=llama", headers={"if-none-match": first.headers["etag"]})
    assert other.status_code == 200
    await gateway.books.execute("update gateway.models set name = 'Other' where id = 'sandbox/chat'")
    changed = await gateway.client.get("/models?q=sandbox", headers={"if-none-match": first.headers["etag"]})
    assert changed.status_code == 200


async def test_the_snapshot_is_what_is_shown_until_the_job_makes_another(gateway: InProcess):
    refresh = "select api.refresh_catalogue()"
    assert '"changed": true' in await gateway.books.fetchval(refresh)
    assert '"changed": false' in await gateway.books.fetchval(refresh)
    await gateway.books.execute("update gateway.models set name = 'Other' where id = 'sandbox/chat'")
    assert (await gateway.client.get("/v1/models/sandbox/chat")).json()["name"] == "Sandbox"
    assert '"changed": true' in await gateway.books.fetchval(refresh)
    assert (await gateway.client.get("/v1/models/sandbox/chat")).json()["name"] == "Other"


async def test_providers(gateway: InProcess):
    told = (await gateway.client.get("/models/providers")).json()
    found = {each["slug"]: (each["model_count"], each["status"]) for each in told["data"]}
    assert found["openrouter"] == (3, "operational")
    assert told["count"] == len(found) == 5
    await gateway.books.execute(
        "insert into gateway.offer_health (model_id, provider, open_until) select model_id, provider, now() + interval"
        " '1 minute' from gateway.offers where provider = 'openrouter'"
    )
    told = (await gateway.client.get("/catalog/provider?gateway=openrouter")).json()
    assert [each["status"] for each in told["data"]] == ["degraded"]
    assert (await gateway.client.get("/models/providers?moderated_only=true")).json()["count"] == 0


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
    gateway.line.cut = {"catalogue"}
    for path in ("/v1/models", "/v1/models/sandbox/chat"):
        response = await gateway.client.get(path)
        assert (response.status_code, response.json()["error"]["code"]) == (503, "database_unavailable")
