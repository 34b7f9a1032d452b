"""Credits that operators give and take by hand."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Header, Response
from pydantic import BeforeValidator, Field, model_validator

from gateway import administration, money
from gateway.administration import MOST_CREDIT_NANO
from gateway.errors import InvalidRequest
from gateway.http.app import json_answer
from gateway.http.body import MAX_ID, Body, Line, Moment, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

router = APIRouter(route_class=StrictRoute)


def _nano(amount: Any) -> int:
    if isinstance(amount, bool) or not isinstance(amount, int | str | Decimal):
        raise ValueError("must be an amount of dollars, as a number or a decimal string")  # noqa: TRY004 - pydantic's
    text = str(amount) if not isinstance(amount, Decimal) else f"{amount:f}"
    return -money.parse(text[1:]) if text.startswith("-") else money.parse(text)


type Change = Annotated[int, BeforeValidator(_nano), Field(ge=-MOST_CREDIT_NANO, le=MOST_CREDIT_NANO)]
"""Dollars to give, or to take where they are negative, as nano-dollars."""
type Key = Annotated[str | None, Header(alias="idempotency-key", pattern=r"^[ -~]{1,255}$")]


class Credits(Body):
    """What is given to whom: one of `user_id` and `api_key`. Only a correction takes, and what is taken has no end."""

    user_id: Annotated[int, Field(ge=1, le=MAX_ID)] | None = None
    api_key: Line | None = None
    credits: Change
    reason: Line
    kind: Literal["promo", "goodwill", "correction"] = "promo"
    expires_at: Annotated[Moment | None, Field(strict=False)] = None

    @model_validator(mode="after")
    def _fits(self) -> Credits:
        if (self.user_id is None) == (self.api_key is None):
            raise ValueError("name one of user_id and api_key")
        if self.credits == 0:
            raise ValueError("credits must not be 0")
        if self.credits < 0 and (self.kind != "correction" or self.expires_at):
            raise ValueError("only a correction takes credits, and it has no expires_at")
        return self


@router.post("/admin/add_credits")
async def add_credits(
    body: Credits,
    caller: Annotated[Caller, Depends(require(Scope.ADMIN_CREDITS))],
    key: Key = None,
) -> Response:
    """Give credits, or take some back; once per Idempotency-Key, which has to be there."""
    if key is None:
        raise InvalidRequest("Send an Idempotency-Key: credits are given once for each.", param="Idempotency-Key")
    user_id = body.user_id or (await administration.holder(plaintext=body.api_key))["user_id"]
    found = await administration.add_credits(
        caller.actor(), user_id, body.credits,
        kind=body.kind, reason=body.reason, expires_at=body.expires_at, key=key,
    )  # fmt: skip
    answer = {"success": True, "message": "The balance was changed.", "user_id": user_id, **found}
    return json_answer({**answer, "timestamp": datetime.now(UTC)})
