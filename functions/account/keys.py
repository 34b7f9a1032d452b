"""A user's keys. What their owner may do with them no key can do that may do less."""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Response
from fastapi import Body as FromBody
from pydantic import AfterValidator, Field, StringConstraints

from gateway import keyring
from gateway.errors import InvalidRequest
from gateway.http.app import json_answer
from gateway.http.body import Body, Cursor, Day, Id, KeyId, Limit, Line, StrictRoute, Usd
from gateway.http.caller import Caller, require
from gateway.scopes import Scope

HOUR_S = 3600
MOST_DAYS_SHOWN = 366
USUAL = (Scope.INFERENCE, Scope.ACCOUNT_READ)

router = APIRouter(route_class=StrictRoute)
Reader = Annotated[Caller, Depends(require(Scope.ACCOUNT_READ))]
Writer = Annotated[Caller, Depends(require(Scope.KEYS_WRITE))]


def _network(text: str) -> str:
    return str(ipaddress.ip_network(text))


type Network = Annotated[str, StringConstraints(max_length=49), AfterValidator(_network)]
"""An address or CIDR of IPv4 or IPv6, without bits to the right of its mask."""
type Host = Annotated[
    str,
    StringConstraints(
        max_length=253, to_lower=True,
        pattern=r"^(\*\.)?[A-Za-z0-9]([A-Za-z0-9-]{0,62})?(\.[A-Za-z0-9]([A-Za-z0-9-]{0,62})?)*$",
    ),
]  # fmt: skip
"""A site's host, or `*.` and a domain."""
type Model = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:@/-]{1,255}$")]
type Scopes = Annotated[list[Annotated[Scope, Field(strict=False)]], Field(min_length=1, max_length=len(Scope))]
type Count = Annotated[int, Field(ge=1, le=2**53)]


class Settings(Body):
    """What an owner chooses of a key; what is not sent stays as it is."""

    key_name: Line | None = None
    scope_permissions: Scopes | None = None
    expiration_days: Annotated[int, Field(ge=1, le=3650)] | None = None
    max_requests: Count | None = None
    limit_usd: Usd | None = None
    limit_reset: Literal["daily", "weekly", "monthly"] | None = None
    ip_allowlist: Annotated[list[Network], Field(min_length=1, max_length=100)] | None = None
    domain_referrers: Annotated[list[Host], Field(min_length=1, max_length=100)] | None = None
    allowed_models: Annotated[list[Model], Field(min_length=1, max_length=100)] | None = None
    rotation_days: Annotated[int, Field(ge=1, le=365)] | None = None
    retention: Literal["none", "metadata", "full"] | None = None
    rpm: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None
    tpm: Count | None = None
    concurrency: Annotated[int, Field(ge=1, le=2**31 - 1)] | None = None


class KeyCreation(Settings):
    key_name: Line
    environment_tag: Literal["live", "test", "staging", "development", "dev"] | None = None
    action: Literal["create"] = "create"


class KeyChange(Settings):
    is_active: bool | None = None
    action: Literal["update", "rotate"] = "update"
    overlap_hours: Annotated[int, Field(ge=0, le=720)] = 24


class KeyEnd(Body):
    confirmation: Literal["DELETE_KEY"] | None = None
    force: bool = False


COLUMNS = {
    "key_name": "name", "scope_permissions": "scopes", "max_requests": "max_requests", "limit_usd": "limit_nano",
    "limit_reset": "limit_reset", "ip_allowlist": "ip_allowlist", "domain_referrers": "referers",
    "allowed_models": "allowed_models", "rotation_days": "rotation_days", "retention": "retention",
}  # fmt: skip
LIMITS = {"rpm": "requests_per_minute", "tpm": "tokens_per_minute", "concurrency": "concurrency"}


def _columns(body: Settings) -> dict[str, Any]:
    """The settings that were sent, by the names that the database has for them."""
    sent = {name: getattr(body, name) for name in body.model_fields_set}
    for name in ("key_name", "scope_permissions", "is_active", "retention"):
        if name in sent and sent[name] is None:
            raise InvalidRequest(f"{name} cannot be null.", param=name)
    columns = {COLUMNS[name]: value for name, value in sent.items() if name in COLUMNS}
    limits = {LIMITS[name]: value for name, value in sent.items() if name in LIMITS}
    if "expiration_days" in sent:
        days = sent["expiration_days"]
        columns["expires_at"] = days and (datetime.now(UTC) + timedelta(days=days)).isoformat()
    if "is_active" in sent:
        columns["status"] = "active" if sent["is_active"] else "paused"
    return columns | ({"limits": limits} if limits else {})


@router.get("/user/api-keys")
async def list_keys(caller: Reader, limit: Limit = 50, cursor: Cursor | None = None) -> Response:
    """List the user's keys, masked, the last made first."""
    total, found = await keyring.listed(caller.user_id, cursor, limit)
    following = found[-1]["id"] if len(found) == limit else None
    answer = {"total_keys": total, "count": len(found), "keys": found, "data": found, "next_cursor": following}
    return json_answer({"success": True, "status": "success", **answer})


@router.post("/user/api-keys", status_code=201)
async def create_key(body: KeyCreation, caller: Writer) -> Response:
    """Make a key; its secret is shown this once. Without scopes it completes and reads the account."""
    columns = _columns(body)
    scopes = columns.pop("scopes", [scope for scope in USUAL if scope in caller.scopes])
    name, tag = columns.pop("name"), body.environment_tag or caller.environment
    made = await keyring.create(caller.actor(), caller.user_id, name=name, tag=tag, scopes=scopes, settings=columns)
    features = {name: made[name] for name in ("ip_allowlist", "domain_referrers", "expires_at", "max_requests")}
    return json_answer({"success": True, "status": "success", **made, "security_features": features}, 201)


@router.get("/user/api-keys/usage")
async def get_usage(
    caller: Reader,
    key_id: KeyId | None = None,
    start_date: Day | None = None,
    end_date: Day | None = None,
) -> Response:
    """Show what the user's keys used by UTC day; the last 30 days unless told otherwise."""
    until = end_date or datetime.now(UTC).date()
    since = start_date or until - timedelta(days=29)
    if not 0 <= (until - since).days < MOST_DAYS_SHOWN:
        raise InvalidRequest("The dates must be in order, and a year apart at most.", param="start_date")
    found = await keyring.usage(caller.user_id, key_id, since, until)
    return json_answer({"success": True, "usage": found, "start_date": since, "end_date": until})


@router.get("/user/api-keys/{id}")
async def get_key(id: Id, caller: Reader) -> Response:  # noqa: A002 - the path's own name
    """Show one key, masked."""
    return json_answer({"success": True, "key": await keyring.get(caller.user_id, id)})


@router.put("/user/api-keys/{id}")
async def change_key(id: Id, body: KeyChange, caller: Writer) -> Response:  # noqa: A002
    """Change a key's settings, pause it, or give it another secret."""
    now = datetime.now(UTC)
    columns = _columns(body)
    if body.action == "rotate":
        if columns:
            raise InvalidRequest("A rotation changes no settings; send them apart.", param="action")
        made = await keyring.rotate(caller.actor(), caller.user_id, id, body.overlap_hours * HOUR_S)
        plaintext = made["api_key"]
        answer = {"message": "The key has another secret.", "api_key": plaintext, "updated_key": made}
    else:
        changed = await keyring.change(caller.actor(), caller.user_id, id, columns)
        answer = {"message": "The key was changed.", "updated_key": changed}
    return json_answer({"success": True, "status": "success", **answer, "timestamp": now})


@router.delete("/user/api-keys/{id}")
async def delete_key(
    id: Id,  # noqa: A002
    caller: Writer,
    body: Annotated[KeyEnd | None, FromBody()] = None,
) -> Response:
    """End a key and everything that stands for it."""
    await keyring.delete(caller.actor(), caller.user_id, id, force=body is not None and body.force)
    answer = {"message": "The key was deleted.", "deleted_key_id": id, "timestamp": datetime.now(UTC)}
    return json_answer({"success": True, "status": "success", **answer})


@router.post("/user/api-keys/{id}/secret")
async def take_secret(id: Id, caller: Writer) -> Response:  # noqa: A002
    """Show the secret that the key was rotated to by the clock: this once."""
    return json_answer({"success": True, "api_key": await keyring.take_secret(caller.actor(), caller.user_id, id)})
