"""The end of an account. It is here because it ends what Stripe has of the account first."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Response

from gateway import closing
from gateway.http.app import json_answer
from gateway.http.body import Body, Line, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

router = APIRouter(route_class=StrictRoute)
Writer = Annotated[Caller, Depends(require(Scope.ACCOUNT_WRITE))]


class AccountEnd(Body):
    """The account's own user name or e-mail address, so that no slip ends it."""

    confirmation: Line


@router.delete("/user")
async def delete_account(body: AccountEnd, caller: Writer) -> Response:
    """End the account for good: subscriptions and keys stop, what is personal is erased, the books stay (GDPR, 17)."""
    await closing.delete(caller.actor(), caller.user_id, body.confirmation)
    return json_answer({"success": True, "message": "The account was deleted."})
