"""`make openapi`: the whole API as one OpenAPI 3.1 document, from the routes and the types that they read."""

from __future__ import annotations

import importlib
import json
import sys
from typing import Any

import msgspec

GROUPS = ("account", "admin", "auth", "billing", "catalog", "health", "history", "stripe_webhook", "trials")
VERSION = "1"

type Document = dict[str, Any]

ERROR: Document = {
    "type": "object",
    "required": ["error", "request_id"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "code", "param"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "code": {"type": ["string", "null"]},
                "param": {"type": ["string", "null"]},
            },
        },
        "request_id": {"type": "string"},
    },
}


def document() -> Document:
    """The API as it is deployed."""
    paths: Document = {}
    schemas: Document = {"Error": ERROR}
    for group in GROUPS:
        described = importlib.import_module(f"{group}.handler").app.app.openapi()
        for path, methods in described["paths"].items():
            paths.setdefault(path, {}).update({method: _put_right(each) for method, each in methods.items()})
        schemas |= described.get("components", {}).get("schemas", {})
    paths |= _inference(schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Gatewayz", "version": VERSION},
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{"key": []}, {}],
    }


def _put_right(operation: Document) -> Document:
    """An operation with the errors that it really has: FastAPI knows only of its own."""
    answers = {status: each for status, each in operation["responses"].items() if status != "422"}
    return {**operation, "responses": {**answers, **_refusals()}}


def _refusals(*statuses: str) -> Document:
    shown = {"description": "refused", "content": _json({"$ref": "#/components/schemas/Error"})}
    return dict.fromkeys(("4XX", "503", *statuses), shown)


def _json(schema: Document) -> Document:
    return {"application/json": {"schema": schema}}


def _inference(schemas: Document) -> Document:
    """The chat group's paths; its routes are Starlette's, which describe nothing."""
    from gateway.inference.messages_request import MessagesRequest  # noqa: PLC0415
    from gateway.inference.requests import CompletionRequest, EmbeddingRequest, ImageRequest  # noqa: PLC0415
    from gateway.inference.responses_request import ResponsesRequest  # noqa: PLC0415

    bodies = {
        "/v1/chat/completions": CompletionRequest, "/v1/quote": CompletionRequest, "/v1/embeddings": EmbeddingRequest,
        "/v1/images/generations": ImageRequest, "/images/generate": ImageRequest, "/v1/responses": ResponsesRequest,
        "/v1/messages": MessagesRequest,
    }  # fmt: skip
    named, found = msgspec.json.schema_components(bodies.values(), ref_template="#/components/schemas/{name}")
    schemas |= found
    routes = {(route.path, method): route for route in _routes() for method in route.methods - {"HEAD"}}
    paths: Document = {}
    schema_of = dict(zip(bodies, named, strict=True))
    for (path, method), route in routes.items():
        operation = _operation(route.endpoint, "{id}" in path)
        if path in schema_of and method == "POST":
            operation["requestBody"] = {"required": True, "content": _json(schema_of[path])}
        paths.setdefault(path, {})[method.lower()] = operation
    return paths


def _routes() -> list[Any]:
    routes: list[Any] = importlib.import_module("chat.routes").routes
    return routes


def _operation(endpoint: Any, has_id: bool) -> Document:  # noqa: FBT001 - of the path
    streamed = {"text/event-stream": {"schema": {"type": "string"}}}
    answer = {"description": "answered", "content": _json({"type": "object"}) | streamed}
    operation: Document = {
        "summary": (endpoint.__doc__ or "").strip(),
        "operationId": endpoint.__name__,
        "responses": {"200": answer, **_refusals("502", "504")},
    }
    if has_id:
        operation["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
    return operation


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1)
