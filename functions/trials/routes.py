"""A trial: started, and what is left of it."""

from __future__ import annotations

from decimal import Decimal
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import Field

from gateway import trials
from gateway.http.app import json_answer
from gateway.http.body import Body, Line, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

router = APIRouter(route_class=StrictRoute)
Reader = Annotated[Caller, Depends(require(Scope.ACCOUNT_READ))]
Writer = Annotated[Caller, Depends(require(Scope.ACCOUNT_WRITE))]


class Start(Body):
    """Of which the type counts; who and how long is not for the client to say."""

    trial_type: Literal["standard"] = "standard"
    api_key: Line | None = None
    trial_days: Annotated[int, Field(ge=1, le=30)] | None = None


class Reported(Body):
    """What a client believes that it used: taken from clients of the Gatewayz API, and not believed."""

    tokens_used: Annotated[int, Field(ge=0)] = 0
    requests_used: Annotated[int, Field(ge=0)] = 1
    credits_used: Annotated[Decimal, Field(strict=False, ge=0)] = Decimal(0)


@router.post("/trials/start", status_code=201)
async def start_trial(body: Start, caller: Writer) -> Response:
    """Start the account's trial: once, and by one account of a person."""
    started = await trials.start(caller.actor(), caller.user_id)
    return json_answer({"success": True, "trial_type": body.trial_type, **started}, 201)


@router.get("/trials/status")
@router.get("/trial/status")
async def get_status(caller: Reader) -> Response:
    """Show what is left of the trial."""
    found = await trials.status(caller.user_id)
    return json_answer({"success": True, "trial": found, "trial_status": found})


@router.post("/trials/track-usage")
async def track_usage(_body: Reported, caller: Reader) -> Response:
    """Answer with what was really used: nothing that a client reports moves money."""
    return json_answer({"success": True, **await trials.status(caller.user_id)})
