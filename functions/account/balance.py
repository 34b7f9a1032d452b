"""What an account has and a key may spend; /v1/* in OpenRouter's shapes (https://openrouter.ai/docs/api-reference/limits)."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from gateway import users
from gateway.http.app import json_answer
from gateway.http.body import StrictRoute
from gateway.http.caller import Caller, require
from gateway.roles import Scope

router = APIRouter(route_class=StrictRoute)
Reader = Annotated[Caller, Depends(require(Scope.ACCOUNT_READ))]


@router.get("/v1/credits")
async def get_credits(caller: Reader) -> Response:
    """Show what the account was granted and has used, in dollars."""
    return json_answer({"data": await users.credits(caller.user_id)})


@router.get("/v1/key")
async def get_key(caller: Reader) -> Response:
    """Show the key that asks: its limit, and what it has used."""
    return json_answer({"data": await users.key_status(caller.key_id)})
