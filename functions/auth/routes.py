"""Signing in, session keys, account recovery, and reports of leaked keys."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field

from gateway import leaks, recovery, sign_in
from gateway.errors import InvalidRequest
from gateway.http.app import json_answer
from gateway.http.bearer import address_of, key_of
from gateway.http.body import Body, Line, StrictRoute
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

HOUR_S = 3600

router = APIRouter(route_class=StrictRoute)
KeyHolder = Annotated[Caller, Depends(require(Scope.INFERENCE))]
type Token = Annotated[str, Field(min_length=1, max_length=20_000)]
type Scopes = Annotated[list[Annotated[Scope, Field(strict=False)]], Field(min_length=1, max_length=len(Scope))]


class PrivySignIn(Body):
    """Privy's tokens. What else clients of the Gatewayz API send is taken, and not believed."""

    token: Token
    privy_access_token: Token | None = None
    identity_token: Token | None = None
    referral_code: Line | None = None
    user: dict[str, Any] | None = None
    email: str | None = None
    is_first: bool | None = Field(default=None, alias="is_new_user")
    auth_method: str | None = None


class SupabaseSignIn(Body):
    """An access token of Supabase Auth."""

    token: Token
    referral_code: Line | None = None


class Recovery(Body):
    """The address of somebody who has lost his keys."""

    email: Annotated[Line, Field(pattern=r"^[^\s@]{1,64}@[^\s@]{1,189}$")]


class RecoveryEnd(Body):
    """What was mailed to him."""

    token: Token


class SessionKey(Body):
    """What a session key may do and for how many seconds."""

    scopes: Scopes = Field(default=[Scope.INFERENCE])
    expires_in: Annotated[int, Field(ge=60, le=24 * HOUR_S)] = HOUR_S


@router.post("/auth/privy")
@router.post("/auth")
async def sign_in_with_privy(body: PrivySignIn, request: Request) -> Response:
    """Sign in with Privy's access token, identity token, or both; the first time makes an account."""
    given = (body.token, body.privy_access_token, body.identity_token)
    texts = list(dict.fromkeys(text for text in given if text))
    signed_in = await sign_in.with_privy(texts, body.referral_code, address_of(request), request.scope["request_id"])
    return json_answer(signed_in)


@router.post("/auth/supabase")
async def sign_in_with_supabase(body: SupabaseSignIn, request: Request) -> Response:
    """Sign in with an access token of Supabase Auth; the first time makes an account."""
    ip, request_id = address_of(request), request.scope["request_id"]
    return json_answer(await sign_in.with_supabase(body.token, body.referral_code, ip, request_id))


@router.post("/auth/session-keys", status_code=201)
async def create_session_key(body: SessionKey, caller: KeyHolder, request: Request) -> Response:
    """Make a key for a browser: it may do no more than the key that asks, and ends by itself."""
    made = await sign_in.create_session(key_of(request).id, body.scopes, body.expires_in, caller.actor())
    return json_answer({"success": True, **made}, 201)


@router.delete("/auth/session")
async def end_session(caller: KeyHolder, request: Request) -> Response:
    """End the session key that asks."""
    key = key_of(request)
    if key.environment != "temp":
        raise InvalidRequest("This key is not a session key.")
    await sign_in.end_session(key.id, caller.actor())
    return json_answer({"success": True, "message": "The session has ended."})


@router.post("/auth/recovery", status_code=202)
async def start_recovery(body: Recovery, request: Request) -> Response:
    """Mail a way back to the account with this address; the answer is the same whether there is one or not."""
    await recovery.ask(body.email, address_of(request), request.scope["request_id"])
    return json_answer({"success": True, "message": "If an account has this address, a mail is on its way."}, 202)


@router.post("/auth/recovery/confirm", status_code=201)
async def end_recovery(body: RecoveryEnd, request: Request) -> Response:
    """Make a key with a mailed token, once; all sessions end."""
    made = await recovery.confirm(body.token, address_of(request), request.scope["request_id"])
    return json_answer({"success": True, "message": "This key is shown once.", **made}, 201)


@router.post("/auth/leaked-keys")
async def report_leaked_keys(request: Request) -> Response:
    """Take a report of GitHub's secret scanning; its signature is over the body as it came."""
    key_id = request.headers.get("github-public-key-identifier", "")
    signature = request.headers.get("github-public-key-signature", "")
    report = await request.body()
    ip = address_of(request)
    return json_answer(await leaks.revoke(report, key_id, signature, ip, request.scope["request_id"]))
