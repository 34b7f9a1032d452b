"""What an account has and a key may spend; /v1/* in OpenRouter's shapes (https://openrouter.ai/docs/api-reference/limits)."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Query, Response

from gateway import activity, users
from gateway.http.app import json_answer
from gateway.http.body import Cursor, Limit, Moment, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

router = APIRouter(route_class=StrictRoute)
Reader = Annotated[Caller, Depends(require(Scope.ACCOUNT_READ))]
type Kind = Literal["grant", "usage", "refund", "dispute", "expiry", "correction"]


@router.get("/v1/credits")
async def get_credits(caller: Reader) -> Response:
    """Show what the account was granted and has used, in dollars."""
    return json_answer({"data": await users.credits(caller.user_id)})


@router.get("/v1/key")
async def get_key(caller: Reader) -> Response:
    """Show the key that asks: its limit, and what it has used."""
    return json_answer({"data": await users.key_status(caller.key_id)})


@router.get("/user/balance")
async def get_balance(caller: Reader) -> Response:
    """Show the balance, the grants that it is made of, and what requests in flight hold of it."""
    return json_answer({"success": True, **await users.balance(caller.user_id)})


@router.get("/user/credit-transactions")
async def get_transactions(
    caller: Reader,
    kind: Kind | None = None,
    since: Annotated[Moment | None, Query(alias="from")] = None,
    until: Annotated[Moment | None, Query(alias="to")] = None,
    limit: Limit = 50,
    cursor: Cursor | None = None,
    form: Annotated[Literal["json", "csv"], Query(alias="format")] = "json",
) -> Response:
    """List what came and went, the newest first; all of it adds up to the balance. A CSV has all of a range at once."""
    if form == "csv":
        found = await activity.statement(caller.user_id, kind=kind, since=since, until=until)
        headers = {"content-disposition": 'attachment; filename="statement.csv"'}
        return Response(found, headers=headers, media_type="text/csv; charset=utf-8")
    page = await activity.transactions(caller.user_id, cursor=cursor, most=limit, kind=kind, since=since, until=until)
    following = page[-1]["id"] if len(page) == limit else None
    return json_answer({"success": True, "transactions": page, "count": len(page), "next_cursor": following})
