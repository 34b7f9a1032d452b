"""What operators offer: plans, coupons, and the terms of trials and referrals."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Response
from pydantic import Field, StringConstraints, model_validator

from gateway import coupons, plans, referrals, trials
from gateway.administration import MOST_CREDIT_NANO
from gateway.errors import InvalidRequest
from gateway.http.app import json_answer
from gateway.http.body import MAX_ID, Body, Cursor, Id, Limit, Line, Moment, StrictRoute, Usd
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

router = APIRouter(route_class=StrictRoute)
Reader = Annotated[Caller, Depends(require(Scope.ADMIN_READ))]
Giver = Annotated[Caller, Depends(require(Scope.ADMIN_CREDITS))]
Planner = Annotated[Caller, Depends(require(Scope.ADMIN_USERS))]
type Count = Annotated[int, Field(ge=1, le=2**53)]
type Small = Annotated[int, Field(ge=1, le=2**31 - 1)]
type Given = Annotated[Usd, Field(ge=1, le=MOST_CREDIT_NANO)]
type When = Annotated[Moment | None, Field(strict=False)]
type Kind = Literal["promotional", "referral", "compensation", "partnership"]


class Plan(Body):
    """A plan's parts; one that is not sent stays as it is, a limit that is null is none."""

    name: Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{1,39}$")] | None = None
    description: Line | None = None
    features: Annotated[list[Line], Field(max_length=50)] | None = None
    monthly_price_cents: Annotated[int, Field(ge=0, le=10_000_000)] | None = None
    monthly_credits: Annotated[Usd, Field(le=10**15)] | None = None
    requests_per_minute: Small | None = None
    tokens_per_minute: Count | None = None
    max_concurrent_requests: Small | None = None
    daily_request_limit: Count | None = None
    monthly_request_limit: Count | None = None
    daily_token_limit: Count | None = None
    monthly_token_limit: Count | None = None
    stored_bytes: Count | None = None
    is_active: bool | None = None


COLUMNS = {"monthly_credits": "allowance_nano", "max_concurrent_requests": "concurrency"}
REQUIRED = ("name", "description", "features", "monthly_price_cents", "monthly_credits", "is_active")


class PlanAssignment(Body):
    user_id: Annotated[int, Field(ge=1, le=MAX_ID)]
    plan_id: Annotated[int, Field(ge=1, le=MAX_ID)]
    duration_months: Annotated[int, Field(ge=1, le=120)] = 1


class CouponChange(Body):
    description: Line | None = None
    max_uses: Count | None = None
    starts_at: When = None
    ends_at: When = None
    is_active: bool | None = None


class Coupon(Body):
    """A coupon: `credits` at once, or `percent` of the next top-up up to `most_credits`."""

    code: Annotated[str, StringConstraints(to_upper=True, pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{2,39}$")]
    kind: Kind = "promotional"
    description: Line = "a coupon"
    credits: Given | None = None
    percent: Annotated[int, Field(ge=1, le=500)] | None = None
    most_credits: Given | None = None
    user_id: Annotated[int, Field(ge=1, le=MAX_ID)] | None = None
    max_uses: Count | None = None
    starts_at: When = None
    ends_at: When = None
    credit_days: Annotated[int, Field(ge=1, le=3650)] | None = None

    @model_validator(mode="after")
    def _gives_one(self) -> Coupon:
        if (self.credits is None) == (self.percent is None):
            raise ValueError("send one of credits and percent")
        return self


class TrialTerms(Body):
    credits: Annotated[Usd, Field(le=MOST_CREDIT_NANO)] | None = None
    days: Annotated[int, Field(ge=1, le=90)] | None = None


class ReferralTerms(Body):
    referrer_credits: Annotated[Usd, Field(le=MOST_CREDIT_NANO)] | None = None
    referee_credits: Annotated[Usd, Field(le=MOST_CREDIT_NANO)] | None = None
    least_cents: Annotated[int, Field(ge=1000, le=10**9)] | None = None
    most_rewards: Annotated[int, Field(ge=1, le=10)] | None = None


def _given(body: Body, names: dict[str, str]) -> dict[str, Any]:
    """What was sent, by the names of columns; times as text."""
    sent = {names.get(name, name): getattr(body, name) for name in body.model_fields_set}
    return {name: each.isoformat() if isinstance(each, datetime) else each for name, each in sent.items()}


async def _saved_plan(caller: Caller, plan_id: int | None, body: Plan) -> dict[str, Any]:
    for name in body.model_fields_set & set(REQUIRED):
        if getattr(body, name) is None:
            raise InvalidRequest(f"{name} cannot be null.", param=name)
    return await plans.save(caller.actor(), plan_id, _given(body, COLUMNS))


@router.post("/admin/plans", status_code=201)
async def create_plan(body: Plan, caller: Planner) -> Response:
    """Make a plan."""
    if body.name is None:
        raise InvalidRequest("A plan needs a name.", param="name")
    return json_answer({"success": True, "plan": await _saved_plan(caller, None, body)}, 201)


@router.patch("/admin/plans/{id}")
async def change_plan(id: Id, body: Plan, caller: Planner) -> Response:  # noqa: A002 - the path's own name
    """Change a plan, for all who have it."""
    return json_answer({"success": True, "plan": await _saved_plan(caller, id, body)})


@router.post("/plans/assign")
@router.post("/admin/assign-plan")
async def assign_plan(body: PlanAssignment, caller: Planner) -> Response:
    """Give a user a plan for some months."""
    await plans.assign(caller.actor(), body.user_id, body.plan_id, body.duration_months)
    answer = {"success": True, "status": "success", "message": "The plan was assigned.", "user_id": body.user_id}
    given = {"plan_id": body.plan_id, "duration_months": body.duration_months, "timestamp": datetime.now(UTC)}
    return json_answer({**answer, **given})


@router.post("/admin/coupons", status_code=201)
async def create_coupon(body: Coupon, caller: Giver) -> Response:
    """Make a coupon."""
    names = {"credits": "credit_nano", "most_credits": "most_nano"}
    columns = {**_given(body, names), "kind": body.kind, "description": body.description}
    return json_answer({"success": True, "coupon": await coupons.save(caller.actor(), None, columns)}, 201)


@router.get("/admin/coupons")
async def list_coupons(
    _caller: Reader,
    kind: Kind | None = None,
    is_active: bool | None = None,  # noqa: FBT001 - a parameter of the query
    cursor: Cursor | None = None,
    limit: Limit = 50,
) -> Response:
    """List coupons, the last made first."""
    page, following = await coupons.listed(kind, is_active=is_active, cursor=cursor, limit=limit)
    return json_answer({"success": True, "coupons": page, "data": page, "next_cursor": following})


@router.get("/admin/coupons/stats/overview")
async def overview(_caller: Reader) -> Response:
    """Sum coupons up by kind."""
    return json_answer({"success": True, "kinds": await coupons.overview()})


@router.get("/admin/coupons/{id}")
@router.get("/admin/coupons/{id}/analytics")
async def get_coupon(id: Id, _caller: Reader) -> Response:  # noqa: A002
    """Show a coupon with what came of it."""
    return json_answer({"success": True, "coupon": await coupons.get(id)})


@router.patch("/admin/coupons/{id}")
async def change_coupon(id: Id, body: CouponChange, caller: Giver) -> Response:  # noqa: A002
    """Change when and how often a coupon can be redeemed; what it gives stays."""
    changes = _given(body, {})
    for name in ("description", "is_active"):
        if name in changes and changes[name] is None:
            raise InvalidRequest(f"{name} cannot be null.", param=name)
    return json_answer({"success": True, "coupon": await coupons.save(caller.actor(), id, changes)})


@router.delete("/admin/coupons/{id}")
async def end_coupon(id: Id, caller: Giver) -> Response:  # noqa: A002
    """Let a coupon be redeemed no more."""
    return json_answer({"success": True, "coupon": await coupons.save(caller.actor(), id, {"is_active": False})})


@router.get("/admin/trial-terms")
async def get_trial_terms(caller: Reader) -> Response:
    """Show what a trial gives."""
    return json_answer({"success": True, "terms": await trials.terms(caller.actor(), None)})


@router.put("/admin/trial-terms")
async def set_trial_terms(body: TrialTerms, caller: Giver) -> Response:
    """Set what a trial gives; no credit: there are none."""
    changes = body.model_dump(exclude_none=True)
    if "credits" in changes:
        changes["credit_nano"] = changes.pop("credits")
    return json_answer({"success": True, "terms": await trials.terms(caller.actor(), changes)})


@router.get("/admin/referral-terms")
async def get_referral_terms(caller: Reader) -> Response:
    """Show what a referral gives."""
    return json_answer({"success": True, "terms": await referrals.terms(caller.actor(), None)})


@router.put("/admin/referral-terms")
async def set_referral_terms(body: ReferralTerms, caller: Giver) -> Response:
    """Set what a referral gives to both; no credit: nothing."""
    names = {"referrer_credits": "referrer_nano", "referee_credits": "referee_nano"}
    changes = {names.get(name, name): value for name, value in body.model_dump(exclude_none=True).items()}
    return json_answer({"success": True, "terms": await referrals.terms(caller.actor(), changes)})
