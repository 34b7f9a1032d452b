"""The door that Supabase opens to a database, as far as the gateway uses it: `POST /rest/v1/rpc/{function}`.

It answers as PostgREST does (https://docs.postgrest.org/en/stable/references/errors.html), so that the
supabase transport can be run and tested without Supabase. Only schema `api` is exposed.
"""

from __future__ import annotations

import re
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import jwt
import msgspec
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.requests import Request

SCHEMA = "api"
YEAR_S = 365 * 24 * 3600

STATUS = {
    "08": 503, "09": 500, "0L": 403, "0P": 403, "23503": 409, "23505": 409, "25": 500, "25006": 405,
    "28": 403, "2D": 500, "38": 500, "39": 500, "3B": 500, "40": 500, "42501": 403, "42883": 404,
    "42P01": 404, "42P17": 500, "53": 503, "53400": 500, "54": 500, "55": 500, "57": 500, "57P01": 503,
    "58": 500, "F0": 500, "HV": 500, "P0": 500, "P0001": 400, "XX": 500,
}  # fmt: skip
"""PostgREST's HTTP status by SQLSTATE or its class; 400 for all others."""

SIGNATURES = """
select coalesce(p.proargnames[:p.pronargs], '{}') as names,
       array(select format_type(type, null) from unnest(p.proargtypes) type) as types,
       p.pronargdefaults as defaults
  from pg_proc p
 where p.pronamespace = (select oid from pg_namespace where nspname = $1) and p.proname = $2
"""


class Refused(Exception):
    """An answer that is an error, with the members of PostgREST's error object."""

    def __init__(
        self, status: int, code: str, message: str, details: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"code": code, "details": details, "hint": hint, "message": message}


def app(url: str, secret: str) -> Starlette:
    """The door to one database. `url` logs in a superuser or `authenticator`; `secret` signs the tokens that
    name the role (HS256)."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with asyncpg.create_pool(url, min_size=0, max_size=10, timeout=5, command_timeout=10) as pool:
            app.state.pool = pool
            yield

    async def rpc(request: Request) -> Response:
        try:
            return await _answer(request, secret)
        except Refused as refused:
            return _json(msgspec.json.encode(refused.body), refused.status)

    return Starlette(lifespan=lifespan, routes=[Route("/rest/v1/rpc/{function}", rpc, methods=["POST"])])


def service_key(secret: str, role: str = "service_role") -> str:
    """A token for a role, good for ten years, like the key for service_role that Supabase gives to servers."""
    now = int(time.time())
    claims = {"iss": "supabase", "role": role, "iat": now, "exp": now + 10 * YEAR_S}
    return jwt.encode(claims, secret, "HS256")


async def _answer(request: Request, secret: str) -> Response:
    claims = _claims(request, secret)
    if (schema := request.headers.get("content-profile")) != SCHEMA:
        hint = f"Only the following schemas are exposed: {SCHEMA}"
        raise Refused(406, "PGRST106", f"Invalid schema: {schema}", hint=hint)
    arguments = _arguments(await request.body())
    try:
        async with request.app.state.pool.acquire() as connection, connection.transaction():
            result = await _call(connection, request.path_params["function"], arguments, claims)
    except asyncpg.PostgresError as error:
        raise _refused(error, claims["role"]) from error
    except TimeoutError as error:
        raise Refused(504, "PGRST003", "Timed out acquiring connection from connection pool.") from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError, OSError) as error:
        raise Refused(503, "PGRST001", "Database client error. Retrying the connection.") from error
    return _json((result or "null").encode())


def _claims(request: Request, secret: str) -> dict[str, Any]:
    """Who asks: what the token says, `anon` without one."""
    token = request.headers.get("authorization", "").removeprefix("Bearer ") or request.headers.get("apikey")
    if not token:
        return {"role": "anon"}
    try:
        claims: dict[str, Any] = jwt.decode(token, secret, ["HS256"], options={"verify_aud": False})
    except jwt.ExpiredSignatureError as error:
        raise Refused(401, "PGRST303", "JWT expired") from error
    except jwt.PyJWTError as error:
        raise Refused(401, "PGRST301", "No suitable key or wrong key type") from error
    return {"role": "anon"} | claims


def _arguments(body: bytes) -> dict[str, Any]:
    try:
        return msgspec.json.decode(body or b"{}", type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise Refused(400, "PGRST102", "Empty or invalid json") from error


async def _call(
    connection: asyncpg.pool.PoolConnectionProxy,
    function: str,
    arguments: dict[str, Any],
    claims: dict[str, Any],
) -> str | None:
    """The result as JSON text. Arguments take the function's own types from one JSON parameter, as
    PostgREST's do."""
    types = _match(await connection.fetch(SIGNATURES, SCHEMA, function), function, arguments)
    names = {name: _quoted(name) for name in arguments}
    columns = ", ".join(f"{names[name]} {types[name]}" for name in arguments)
    passed = ", ".join(f"{quoted} => body.{quoted}" for quoted in names.values())
    source = f"json_to_record($1::json) as body({columns})" if arguments else "(select $1::json) as body"
    await connection.execute(
        "select set_config('role', $1, true), set_config('request.jwt.claims', $2, true)",
        claims["role"],
        msgspec.json.encode(claims).decode(),
    )
    statement = f"select to_json({SCHEMA}.{_quoted(function)}({passed}))::text from {source}"  # noqa: S608
    result: str | None = await connection.fetchval(statement, msgspec.json.encode(arguments).decode())
    return result


def _match(signatures: list[asyncpg.Record], function: str, arguments: dict[str, Any]) -> dict[str, str]:
    """The argument types of the function that has all of these arguments and demands no other."""
    for signature in signatures:
        names = signature["names"]
        if set(names[: len(names) - signature["defaults"]]) <= arguments.keys() <= set(names):
            return dict(zip(names, signature["types"], strict=True))
    asked = f"{SCHEMA}.{function}({', '.join(sorted(arguments))})"
    details = f"Searched for the function {asked}, but no matches were found in the schema cache."
    raise Refused(404, "PGRST202", f"Could not find the function {asked} in the schema cache", details)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _refused(error: asyncpg.PostgresError, role: str) -> Refused:
    code = error.sqlstate or "XX000"
    status = STATUS.get(code) or STATUS.get(code[:2], 400)
    if re.fullmatch(r"PT\d{3}", code):
        status = int(code[2:])
    if code == "42501" and role == "anon":
        status = 401
    return Refused(status, code, error.message or "", error.detail, error.hint)


def _json(body: bytes, status: int = 200) -> Response:
    headers = {"www-authenticate": "Bearer"} if status == 401 else None
    return Response(body, status, headers, "application/json; charset=utf-8")
