"""A management group's app: FastAPI inside the edge, with its routes and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError

from gateway.errors import GatewayError, Unprocessable
from gateway.http.edge import Edge, body_of, shown

MANAGED_BODY_BYTES = 1 << 20
"""A management route's body is read before its key is verified."""


def create_app(router: APIRouter) -> Edge:
    """The ASGI app of a group. It serves no documentation: OpenAPI is generated at build time."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None, redirect_slashes=False)
    app.include_router(router)
    for kind in (GatewayError, RequestValidationError, Exception, 400, 404, 405):
        app.add_exception_handler(kind, _show)
    return Edge(app, router.routes, MANAGED_BODY_BYTES)


async def _show(request: Request, error: Exception) -> Response:
    """FastAPI answers what its routes raise itself, so the error body has to be made here and not in the edge."""
    refusal = _unprocessable(error) if isinstance(error, RequestValidationError) else shown(error)
    body = body_of(refusal, request.scope["request_id"])
    return Response(body, refusal.status, refusal.headers(), media_type="application/json")


def _unprocessable(error: RequestValidationError) -> Unprocessable:
    """The first thing that is wrong, by its place and the rule it breaks; what was sent is not repeated."""
    first = error.errors()[0]
    place = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
    return Unprocessable(f"{place}: {first['msg']}.", param=place)


def json_answer(value: Any, status: int = 200) -> Response:
    """An answer whose amounts of money are exact JSON numbers (FastAPI's own encoder would make floats of them)."""
    return Response(msgspec.json.encode(value), status, media_type="application/json")
