"""The inference routes: HTTP to calls, and nothing else."""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from chat.calls import anthropic_key_of, call_of, caller_of, in_session, raw_body, read_body, translated
from gateway import responses
from gateway.errors import GatewayError, InvalidRequest
from gateway.http.bearer import key_of
from gateway.http.reply import Reply
from gateway.inference import (
    completions,
    embeddings,
    images,
    messages,
    messages_request,
    metering,
    quotes,
    responses_request,
    stored_numbers,
)
from gateway.inference.bill import Call
from gateway.inference.chat import Chat
from gateway.inference.messages import Messages
from gateway.inference.messages_request import MessagesRequest
from gateway.inference.requests import CompletionRequest, EmbeddingRequest, ImageRequest, document, parse, read
from gateway.inference.responses import Responses
from gateway.inference.responses_request import ResponsesRequest

MOST_ITEMS = 100
"""Items of a response's input that are listed at once."""


async def create_completion(request: Request) -> Reply:
    """Create a chat completion; streamed as server-sent events when `stream` is true."""
    return Reply(await completions.serve(await _completion(request)))


async def create_quote(request: Request) -> Response:
    """Say what a completion with this body would cost, at most and likely, by whom; nothing is held or asked."""
    return _json(await quotes.quote(await _completion(request)))


async def _completion(request: Request) -> Call:
    raw = await raw_body(request, key := key_of(request))
    if (session_id := request.query_params.get("session_id")) is not None:
        wanted, body = await read_body(request, raw, _kept_wanted)
        return await in_session(request, wanted, body, raw, session_id)
    wanted, body = await read_body(request, raw, lambda raw: parse(raw, CompletionRequest))
    return call_of(request, wanted, body, raw, key, dialect=Chat(include_usage=wanted.include_usage))


def _kept_wanted(raw: bytes) -> tuple[CompletionRequest, dict[str, Any]]:
    wanted, body = parse(raw, CompletionRequest)
    stored_numbers.refuse_wide(raw, body)
    return wanted, body


async def create_embeddings(request: Request) -> Reply:
    """Create the embeddings of a text or texts."""
    raw = await raw_body(request, key := key_of(request))
    wanted, body = await read_body(request, raw, lambda raw: parse(raw, EmbeddingRequest))
    if wanted.encoding_format is None:
        body.pop("encoding_format", None)  # providers refuse a null
    return Reply(await embeddings.serve(call_of(request, wanted, body, raw, key)))


async def create_images(request: Request) -> Reply:
    """Create images."""
    raw = await raw_body(request, key := key_of(request))
    wanted, body = await read_body(request, raw, lambda raw: parse(raw, ImageRequest))
    return Reply(await images.serve(call_of(request, wanted, body, raw, key)))


async def create_response(request: Request) -> Reply:
    """Create a response; it is stored for thirty days unless `store` is false."""
    raw = await raw_body(request, key := key_of(request))
    wanted, body = await read_body(request, raw, _response_wanted)
    before, previous_id = [], wanted.previous_response_id
    if previous_id is not None:
        before = await responses.items(previous_id, **caller_of(request))
    dialect = Responses(wanted, responses.stored_id(previous_id) if previous_id else None)
    chat = responses_request.chat_of(wanted, body, before)
    return Reply(await completions.serve(translated(request, chat, raw, dialect, key)))


def _response_wanted(raw: bytes) -> tuple[ResponsesRequest, dict[str, Any]]:
    body = document(raw)
    wanted = read(body, ResponsesRequest)
    if wanted.store is not False:
        stored_numbers.refuse_wide(raw, body)
    return wanted, body


async def get_response(request: Request) -> Response:
    """Read a stored response."""
    return _json(await responses.get(request.path_params["id"], **caller_of(request)))


async def list_response_inputs(request: Request) -> Response:
    """List the items that went into a stored response: those after the id `after`, at most `limit`."""
    after, limit = request.query_params.get("after"), request.query_params.get("limit", str(MOST_ITEMS))
    if not (limit.isascii() and limit.isdigit() and 1 <= int(limit[:4]) <= MOST_ITEMS):
        raise InvalidRequest(f"limit is a number from 1 to {MOST_ITEMS}.", param="limit")
    return _json(await responses.inputs(request.path_params["id"], after, int(limit), **caller_of(request)))


async def delete_response(request: Request) -> Response:
    """Delete a stored response."""
    return _json(await responses.delete(request.path_params["id"], **caller_of(request)))


async def create_message(request: Request) -> Reply | Response:
    """Create a message as Anthropic's API does, errors included."""
    try:
        raw = await raw_body(request, key := anthropic_key_of(request))
        dialect = Messages(metering.likely_tokens(len(raw)))
        chat = await read_body(request, raw, _message_wanted)
        return Reply(await completions.serve(translated(request, chat, raw, dialect, key)))
    except GatewayError as refusal:
        told = messages.error_body(refusal, request.scope["request_id"])
        return Response(msgspec.json.encode(told), refusal.status, refusal.headers(), media_type="application/json")


def _message_wanted(raw: bytes) -> dict[str, Any]:
    body = document(raw)
    return messages_request.chat_of(read(body, MessagesRequest), body)


def _json(value: Any) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


routes = [
    Route("/v1/chat/completions", create_completion, methods=["POST"]),
    Route("/v1/quote", create_quote, methods=["POST"]),
    Route("/v1/embeddings", create_embeddings, methods=["POST"]),
    Route("/v1/images/generations", create_images, methods=["POST"]),
    Route("/images/generate", create_images, methods=["POST"]),
    Route("/v1/responses", create_response, methods=["POST"]),
    Route("/v1/responses/{id}", get_response, methods=["GET"]),
    Route("/v1/responses/{id}", delete_response, methods=["DELETE"]),
    Route("/v1/responses/{id}/input_items", list_response_inputs, methods=["GET"]),
    Route("/v1/messages", create_message, methods=["POST"]),
]
