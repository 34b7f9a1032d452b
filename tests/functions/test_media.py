"""POST /v1/embeddings and /v1/images/generations: held first, charged for what came."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.harness.builders import insert
from tests.harness.upstream import Upstream, whole

if TYPE_CHECKING:
    import httpx

    from tests.harness.gateway import InProcess

PNG = base64.b64encode(b"\x89PNG\r\n\x1a\n and more").decode()
CENT = 10_000_000
"""In nano-dollars."""


async def embed(gateway: InProcess, **body: Any) -> httpx.Response:
    asked = {"model": "sandbox/embedding", "input": "Hello", **body}
    return await gateway.client.post("/v1/embeddings", headers=gateway.headers(), json=asked)


async def draw(gateway: InProcess, path: str = "/v1/images/generations", **body: Any) -> httpx.Response:
    asked = {"model": "sandbox/image", "prompt": "A harbour", **body}
    return await gateway.client.post(path, headers=gateway.headers(), json=asked)


async def test_embeddings_are_a_list_and_cost_their_prompt(gateway: InProcess):
    told = (await embed(gateway, input=["one", "two"], dimensions=8)).json()
    assert [entry["index"] for entry in told["data"]] == [0, 1]
    assert [len(entry["embedding"]) for entry in told["data"]] == [8, 8]
    await gateway.ended()
    (used,) = await gateway.usage()
    assert told["usage"]["prompt_tokens"] == told["usage"]["total_tokens"] == used["prompt_tokens"] == 2
    assert used["cost_nano"] == 40  # two tokens at 20 nano-dollars
    assert told["gateway_usage"]["cost_usd"] == 0.00000004


async def test_an_embedding_in_base64_is_passed_as_it_is_and_a_null_is_not(gateway: InProcess, upstream: Upstream):
    gateway.connect("portkey", upstream.url)
    upstream.will(whole(json.dumps({"data": [{"embedding": "AAAA"}], "usage": {"prompt_tokens": 3}}).encode()))
    model = "openai/text-embedding-3-small"
    told = (await embed(gateway, model=model, encoding_format=None, input=[1, 2, 3])).json()
    assert told["data"] == [{"object": "embedding", "index": 0, "embedding": "AAAA"}]
    assert upstream.requests[0].path == "/embeddings"
    assert json.loads(upstream.requests[0].body) == {"model": "text-embedding-3-small", "input": [1, 2, 3]}


async def test_a_wrong_number_of_embeddings_is_no_answer(gateway: InProcess, upstream: Upstream):
    gateway.connect("portkey", upstream.url)
    upstream.will(whole(json.dumps({"data": [{"embedding": [1.0]}], "usage": {"prompt_tokens": 3}}).encode()))
    refused = await embed(gateway, model="openai/text-embedding-3-small", input=["one", "two"])
    assert (refused.status_code, refused.json()["error"]["code"]) == (502, "provider_error")
    assert await gateway.holds() == ["released"]


@pytest.mark.parametrize("path", ["/v1/images/generations", "/images/generate"])
async def test_images_cost_by_size_and_quality(gateway: InProcess, path: str):
    cases: list[tuple[dict[str, Any], int]] = [
        ({"size": "1024x1024", "quality": "standard"}, 4),
        ({"size": "1792x1024", "quality": "hd", "n": 3}, 36),
        ({"size": "1024x1024"}, 8),  # whatever the provider takes, it costs no more than this
        ({"quality": "auto", "size": "auto"}, 12),
    ]
    for number, (body, cents) in enumerate(cases):
        told = (await draw(gateway, path, **body)).json()
        assert len(told["data"]) == body.get("n", 1)
        assert all(base64.b64decode(image["b64_json"]).startswith(b"\x89PNG") for image in told["data"])
        await gateway.ended(number + 1)
        used = (await gateway.usage())[-1]
        assert (used["images"], used["cost_nano"]) == (body.get("n", 1), cents * CENT), body
        assert told["gateway_usage"]["images_generated"] == used["images"]


async def test_the_most_is_held_and_only_what_can_be_shown_is_charged(gateway: InProcess, upstream: Upstream):
    told = (await draw(gateway, model="sandbox/broken-images", n=4)).json()
    assert len(told["data"]) == 3
    await gateway.ended()
    (hold,) = await gateway.rows("select bound_nano, cost_nano from gateway.credit_holds")
    assert (hold["bound_nano"], hold["cost_nano"]) == (16 * CENT, 12 * CENT)
    await insert(gateway.books, "models", id="acme/draw", name="x", context_length=1, max_output_tokens=1, kind="image")
    await insert(gateway.books, "offers", model_id="acme/draw", provider="portkey", upstream_id="draw",
                 prompt_price=0, completion_price=0, request_price=CENT * 10**6)  # fmt: skip
    gateway.connect("portkey", upstream.url)
    for bad in ({"b64_json": "AAAA"}, {"b64_json": "%%"}, {"url": "file:///etc/passwd"}, {"url": 5}, {}):
        upstream.will(whole(json.dumps({"created": 1, "data": [bad]}).encode()))
        assert (await draw(gateway, model="acme/draw")).status_code == 502, bad
    upstream.will(whole(json.dumps({"created": 1, "data": [{"b64_json": PNG}, {"url": "https://x.test/1"}]}).encode()))
    assert (await draw(gateway, model="acme/draw", n=2)).status_code == 200


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a size that is not sold": ({"size": "1x1"}, "size"),
    "too many": ({"n": 11}, "n"),
    "no prompt": ({"prompt": ""}, "prompt"),
    "a chat model": ({"model": "sandbox/chat"}, "model"),
    "a stream": ({"stream": True}, "stream"),
}


async def test_what_cannot_be_is_refused(gateway: InProcess):
    before = await gateway.tables()
    for name, (body, param) in REFUSED.items():
        refused = await draw(gateway, **body)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, param), name
    assert (await embed(gateway, model="sandbox/chat")).status_code == 400
    assert (await gateway.ask(model="sandbox/image")).status_code == 400
    for inputs in ("", [], [""], ["x"] * 2049, {"a": 1}, None):
        assert (await embed(gateway, input=inputs)).status_code == 400, inputs
    assert await gateway.tables() == before


async def test_an_image_that_the_balance_does_not_reach_for_is_not_drawn(gateway: InProcess):
    await gateway.customer(7 * CENT)
    assert (await draw(gateway, n=2, size="1024x1024", quality="standard")).status_code == 402
    assert (await draw(gateway, n=1, size="1024x1024", quality="standard")).status_code == 200
