"""The catalogue's routes. Public: what is sold and for how much is no secret."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Query, Request, Response
from pydantic import StringConstraints

from gateway import catalog, ranking
from gateway.catalog import PROVIDERS, WORD, Filter
from gateway.errors import InvalidRequest

MOST = 1000
MAX_AGE = "public, max-age=60"

router = APIRouter()
type Slug = Annotated[str, StringConstraints(max_length=50)]
type Words = Annotated[str, StringConstraints(max_length=500)]
type Sort = Literal[
    "id", "-id", "name", "-name", "created", "-created", "context_length", "-context_length", "price", "-price"
]
type Limit = Annotated[int, Query(ge=1, le=MOST)]
type Offset = Annotated[int, Query(ge=0, le=1_000_000)]


@router.get("/v1/models")
async def list_models(request: Request) -> Response:
    """List every model that can be used, in OpenAI's shape with OpenRouter's members."""
    found = await catalog.catalogue()
    return _tagged(request, found.etag, lambda: {"object": "list", "data": found.models})


@router.get("/v1/models/{model_id:path}")
async def retrieve_model(model_id: str) -> dict[str, Any]:
    """One model; its id has slashes."""
    return await catalog.model(model_id)


@router.get("/models")
@router.get("/catalog/models")
async def find_models(  # noqa: PLR0913, PLR0917 - the contract's parameters
    request: Request,
    provider: Slug | None = None,
    gateway: Slug | None = None,
    limit: Limit = MOST,
    offset: Offset = 0,
    sort: Sort = "id",
    supported_parameters: Words | None = None,
    output_modalities: Words | None = None,
    q: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None,
) -> Response:
    """List the models that are wanted, a page at a time."""
    wanted = Filter(
        provider=_provider(provider or gateway),
        supported_parameters=_words(supported_parameters, "supported_parameters"),
        output_modalities=_words(output_modalities, "output_modalities"),
        q=q.lower() if q else None,
        sort=sort,
    )
    catalogue = await catalog.catalogue()

    def answer() -> dict[str, Any]:
        found = wanted.among(catalogue.models)
        page = found[offset : offset + limit]
        following = request.url.include_query_params(limit=limit, offset=offset + limit)
        is_last = offset + limit >= len(found)
        links = {"next": None if is_last else f"{request.url.path}?{following.query}"}
        return {"success": True, "data": page, "count": len(page), "total_count": len(found), "links": links}

    return _tagged(request, catalogue.etag, answer)


@router.get("/models/providers")
@router.get("/catalog/provider")
async def list_providers(
    *, moderated_only: bool = False, limit: Limit = MOST, offset: Offset = 0, gateway: Slug | None = None
) -> dict[str, Any]:
    """List who serves the models."""
    slug = _provider(gateway)
    found = [
        each
        for each in await catalog.providers()
        if (slug is None or each["slug"] == slug) and (each["is_moderated"] or not moderated_only)
    ]
    page = found[offset : offset + limit]
    return {"success": True, "data": page, "count": len(page), "total_count": len(found)}


@router.get("/ranking/models")
async def rank_models(
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    offset: Offset = 0,
    period: ranking.Period = "week",
    metric: ranking.Metric = "tokens",
) -> dict[str, Any]:
    """Rank models by what was used of them here."""
    return {"success": True, **await ranking.ranking(period, metric, limit, offset)}


def _provider(slug: str | None) -> str | None:
    """The provider that is asked for. Raises InvalidRequest for one that there is not."""
    if slug is None or slug == "all":
        return None
    if slug not in PROVIDERS:
        raise InvalidRequest("There is no such provider.", param="provider")
    return slug


def _words(text: str | None, param: str) -> frozenset[str]:
    words = frozenset((text or "").split(",")) - {""}
    if not all(map(WORD.fullmatch, words)):
        raise InvalidRequest("This is a list of words with commas between them.", param=param)
    return words


def _tagged(request: Request, etag: str, answer: Any) -> Response:
    """The answer with its tag; nothing but the tag for who has it already (RFC 9110 13.1.2)."""
    tag = f'"{etag}-{hashlib.sha256(request.url.query.encode()).hexdigest()[:12]}"'
    headers = {"etag": tag, "cache-control": MAX_AGE}
    known = {each.strip().removeprefix("W/") for each in request.headers.get("if-none-match", "").split(",")}
    if tag in known or "*" in known:
        return Response(None, 304, headers)
    return Response(msgspec.json.encode(answer()), 200, headers, media_type="application/json")
