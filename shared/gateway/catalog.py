"""The catalogue: what models there are and what they cost, as OpenAI's clients and OpenRouter's read it.

A job writes it as one row, which is read with its etag and unpacked once for each etag in a process.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from gateway import database
from gateway.errors import ModelNotFound
from gateway.money import show_price

type Model = dict[str, Any]

PROVIDERS = {
    "chutes": ("Chutes", "Decentralised inference of open models", "https://chutes.ai"),
    "featherless": ("Featherless", "Open models, served without servers of one's own", "https://featherless.ai"),
    "openrouter": ("OpenRouter", "Many makers' models behind one key", "https://openrouter.ai"),
    "portkey": ("Portkey", "A gateway to the accounts that an operator has", "https://portkey.ai"),
    "sandbox": ("Sandbox", "Answers offline, the same every time", None),
}
"""By slug: name, description, address."""
WORD = re.compile(r"[a-z0-9._/:-]+")


class Catalogue(msgspec.Struct, frozen=True):
    """All models, by id, and the tag that changes with them."""

    etag: str
    models: list[Model]


class Filter(msgspec.Struct, frozen=True):
    """Which models are wanted, and in which order; what is None does not count."""

    provider: str | None = None
    supported_parameters: frozenset[str] = frozenset()
    output_modalities: frozenset[str] = frozenset()
    q: str | None = None
    sort: str = "id"
    """A member to sort by, falling with `-` before it: id, name, created, context_length or price."""

    def among(self, models: list[Model]) -> list[Model]:
        """The models that are wanted."""
        found = [model for model in models if self._wants(model)]
        if self.sort != "id":
            found.sort(key=SORTS[self.sort.removeprefix("-")], reverse=self.sort.startswith("-"))
        return found

    def _wants(self, model: Model) -> bool:
        return (
            (self.provider is None or self.provider in model["providers"])
            and self.supported_parameters.issubset(model["supported_parameters"])
            and self.output_modalities.issubset(model["architecture"]["output_modalities"])
            and (self.q is None or any(self.q in model[name].lower() for name in ("id", "name", "description")))
        )


SORTS = {
    "id": lambda model: model["id"],
    "name": lambda model: model["name"].lower(),
    "created": lambda model: model["created"],
    "context_length": lambda model: model["context_length"],
    "price": lambda model: float(model["pricing"]["prompt"]) + float(model["pricing"]["completion"]),
}

_kept: dict[str, Catalogue] = {}
"""The catalogue that this process saw last, by its etag."""


async def catalogue() -> Catalogue:
    """What is sold now. Raises DatabaseUnavailable."""
    known = next(iter(_kept), None)
    found = await database.call("catalogue", known=known)
    if found["models"] is not None:
        read = Catalogue(found["etag"], [_shown(model) for model in found["models"]])
        _kept.clear()
        _kept[read.etag] = read
    return _kept[found["etag"]]


async def model(model_id: str) -> Model:
    """One model. Raises ModelNotFound."""
    for listed in (await catalogue()).models:
        if listed["id"] == model_id:
            return listed
    raise ModelNotFound(param="model")


async def providers() -> list[dict[str, Any]]:
    """Who offers models here, and whether that has been going well."""
    shown = []
    for row in await database.call("offering_providers"):
        name, description, url = PROVIDERS[row["provider"]]
        status = "degraded" if 2 * row["failing"] >= row["models"] else "operational"
        counted = {"model_count": row["models"], "official_url": url, "status": status, "is_moderated": False}
        shown.append({"name": name, "slug": row["provider"], "description": description, **counted})
    return shown


def _shown(row: dict[str, Any]) -> Model:
    """A row of api.models_shown as it is shown; prices are exact decimal strings of dollars a unit."""
    offer, is_image = row["offer"], row["kind"] == "image"
    limits = {"context_length": row["context_length"], "max_completion_tokens": row["max_output_tokens"]}
    return {
        "id": row["id"],
        "object": "model",
        "created": row["created"],
        "owned_by": row["id"].partition("/")[0],
        "canonical_slug": row["canonical_slug"],
        "name": row["name"],
        "description": row["description"],
        "kind": row["kind"],
        "context_length": row["context_length"],
        "max_output_tokens": row["max_output_tokens"],
        "architecture": {
            "input_modalities": row["input_modalities"],
            "output_modalities": row["output_modalities"],
            "tokenizer": row["tokenizer"],
        },
        "pricing": _pricing(offer)
        | ({"image": show_price(row["image_price"]), "request": "0"} if is_image else {"image": "0"}),
        "top_provider": {**limits, "is_moderated": False},
        "per_request_limits": None,
        "supported_parameters": row["supported_parameters"],
        "expiration_date": row["expires_on"],
        "provider": row["providers"][0],
        "providers": row["providers"],
    }


def _pricing(offer: dict[str, Any]) -> dict[str, Any]:
    """An offer's prices; a cache's are the prompt's where it has none of its own, and reasoning is text."""
    prompt, completion = offer["prompt_price"], offer["completion_price"]
    caches = {name: offer[f"cache_{name}_price"] for name in ("read", "write")}
    prices = {
        "prompt": prompt,
        "completion": completion,
        "request": offer["request_price"],
        "input_cache_read": prompt if caches["read"] is None else caches["read"],
        "input_cache_write": prompt if caches["write"] is None else caches["write"],
        "internal_reasoning": completion,
    }
    shown: dict[str, Any] = {name: show_price(price) for name, price in prices.items()}
    return shown | {"overrides": [_override(tier) for tier in offer["tiers"] or ()]}


def _override(tier: dict[str, Any]) -> dict[str, Any]:
    names = {"prompt": "prompt", "completion": "completion", "cache_read": "input_cache_read"}
    names |= {"cache_write": "input_cache_write"}
    prices = {shown: show_price(tier[f"{name}_price"]) for name, shown in names.items()}
    return {"min_prompt_tokens": tier["above_tokens"] + 1, **prices}
