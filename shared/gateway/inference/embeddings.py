"""Embeddings: admitted, held and settled as a completion is, with a prompt and nothing else to pay for."""

from __future__ import annotations

from typing import Any

from gateway.errors import ProviderError
from gateway.inference import metering
from gateway.inference.answer import Answer
from gateway.inference.bill import Call
from gateway.inference.completions import OnePiece, admit
from gateway.inference.requests import EmbeddingRequest
from gateway.providers.base import Provider


async def serve(call: Call) -> Answer:
    """As completions.serve, for a call whose request is an EmbeddingRequest."""
    return await admit(call, Embeddings)


class Embeddings(OnePiece):
    """OpenAI's list of embeddings (https://platform.openai.com/docs/api-reference/embeddings)."""

    async def _ask(self, provider: Provider, body: dict[str, Any]) -> dict[str, Any]:
        found = await provider.embed(body)
        request = self.bill.call.request
        assert isinstance(request, EmbeddingRequest), "the route of embeddings"
        if len(found["data"]) != request.inputs or not all(entry.get("embedding") for entry in found["data"]):
            raise ProviderError("The provider sent another number of embeddings than was asked for.")
        return found

    def _finish(self, found: dict[str, Any]) -> None:
        bill = self.bill
        bill.charge_prompt(metering.embedding_usage_of(found.get("usage")))
        usage = bill.priced_usage(found.get("usage"))
        del usage["completion_tokens"]
        identity = bill.identity("list")
        data = [
            {"object": "embedding", "index": index, "embedding": entry["embedding"]}
            for index, entry in enumerate(found["data"])
        ]
        told = {name: identity[name] for name in ("object", "model", "provider")}
        self._tell({**told, "data": data, "usage": usage, "gateway_usage": bill.gateway_usage()})
