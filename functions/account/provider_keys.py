"""Bring your own key: keys of providers that the user pays himself."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Path, Response
from pydantic import StringConstraints

from gateway import provider_keys
from gateway.errors import NotFound
from gateway.http.app import json_answer
from gateway.http.body import Body, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope
from gateway.settings import PROVIDERS

router = APIRouter(route_class=StrictRoute)
Reader = Annotated[Caller, Depends(require(Scope.ACCOUNT_READ))]
Writer = Annotated[Caller, Depends(require(Scope.KEYS_WRITE))]
type Provider = Annotated[str, Path(max_length=64)]


class ProviderKey(Body):
    api_key: Annotated[str, StringConstraints(pattern=r"^[!-~]{16,500}$")]


def _known(provider: str) -> str:
    if provider not in PROVIDERS:
        raise NotFound("There is no such provider.")
    return provider


@router.get("/user/provider-keys")
async def list_provider_keys(caller: Reader) -> Response:
    """List the providers of which the user stored a key, and the keys' last four characters."""
    return json_answer({"success": True, "provider_keys": await provider_keys.listed(caller.user_id)})


@router.put("/user/provider-keys/{provider}")
async def put_provider_key(provider: Provider, body: ProviderKey, caller: Writer) -> Response:
    """Store a key of a provider. It is sealed, and never shown again."""
    stored = await provider_keys.put(caller.actor(), caller.user_id, _known(provider), body.api_key)
    return json_answer({"success": True, "provider_key": stored})


@router.delete("/user/provider-keys/{provider}")
async def delete_provider_key(provider: Provider, caller: Writer) -> Response:
    """Delete the key of a provider."""
    await provider_keys.delete(caller.actor(), caller.user_id, _known(provider))
    return json_answer({"success": True, "message": "The key was deleted."})
