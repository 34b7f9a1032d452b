"""The RPC door answers as PostgREST does (https://docs.postgrest.org/en/stable/references/errors.html)."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import httpx
import jwt
import pytest

from local import postgrest
from tests.harness.web import served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.harness.postgres import Database

SECRET = "a secret that signs tokens, 32 bytes and more"

API = """
drop schema if exists api cascade;
create schema api;
create function api.who() returns jsonb language sql as $$
  select jsonb_build_object('role', current_user,
                            'claims', current_setting('request.jwt.claims', true)::jsonb)
$$;
create function api.take(
  big bigint, price numeric default 0.1, members jsonb default null, "Odd ""named"" one" text default 'x'
) returns jsonb language sql as $$
  select jsonb_build_object('big', big, 'price', price, 'members', members, 'odd', "Odd ""named"" one")
$$;
create function api.fail(code text) returns jsonb language plpgsql as $$
begin
  raise exception using errcode = code, message = 'the message', detail = 'the detail', hint = 'the hint';
end $$;
create function api.closed() returns jsonb language sql as 'select null::jsonb';
revoke execute on function api.closed from public;
grant usage on schema api to anon, authenticated, service_role;
"""


def token(**claims: Any) -> dict[str, str]:
    return {"authorization": f"Bearer {jwt.encode(claims, SECRET, 'HS256')}"}


SERVICE = {"authorization": f"Bearer {postgrest.service_key(SECRET)}"}


@pytest.fixture(params=["postgres", "authenticator"])
async def door(request: pytest.FixtureRequest, database: Database) -> AsyncIterator[httpx.AsyncClient]:
    await database.execute("grant anon, authenticated, service_role to authenticator")
    await database.execute(API)
    url = database.admin.replace("//postgres@", f"//{request.param}@")
    with served(postgrest.app(url, SECRET)) as address:
        async with httpx.AsyncClient(base_url=f"{address}/rest/v1/rpc", headers={"content-profile": "api"}) as client:
            yield client


async def test_the_role_is_the_token_s_and_does_not_stay(door: httpx.AsyncClient) -> None:
    for headers, role in (
        ({}, "anon"),
        (SERVICE, "service_role"),
        ({}, "anon"),
        (token(role="authenticated", sub="u"), "authenticated"),
    ):
        answer = (await door.post("/who", headers=headers)).json()
        assert (answer["role"], answer["claims"]["role"]) == (role, role)


async def test_the_key_may_come_as_apikey(door: httpx.AsyncClient) -> None:
    answer = await door.post("/who", headers={"apikey": postgrest.service_key(SECRET)})
    assert answer.json()["role"] == "service_role"


async def test_arguments_take_the_function_s_types(door: httpx.AsyncClient) -> None:
    body = '{"big": 9223372036854775807, "price": "0.30", "members": {"a": [1, null]}, "Odd \\"named\\" one": "é"}'
    answer = await door.post("/take", headers=SERVICE, content=body)
    assert answer.headers["content-type"] == "application/json; charset=utf-8"
    expected = '{"big":9223372036854775807,"odd":"é","price":0.30,"members":{"a":[1,null]}}'
    assert answer.text.replace(" ", "") == expected
    assert (await door.post("/take", json={"big": 1})).json() == {
        "big": 1,
        "price": 0.1,
        "members": None,
        "odd": "x",
    }


STATUS = {
    "PT402": 402, "PT429": 429, "P0001": 400, "22P02": 400, "23505": 409, "23514": 400, "40001": 500,
    "53300": 503, "57014": 500, "08006": 503, "25006": 405, "XX000": 500, "42501": 403, "ZZ999": 400,
}  # fmt: skip


async def test_an_sqlstate_decides_the_status(door: httpx.AsyncClient) -> None:
    for code, status in STATUS.items():
        answer = await door.post("/fail", headers=SERVICE, json={"code": code})
        expected = {"code": code, "message": "the message", "details": "the detail", "hint": "the hint"}
        assert (answer.status_code, answer.json()) == (status, expected)


async def test_what_a_role_may_not_call(door: httpx.AsyncClient) -> None:
    stranger, user = (
        await door.post("/closed"),
        await door.post("/closed", headers=token(role="authenticated")),
    )
    assert (stranger.status_code, stranger.json()["code"], stranger.headers["www-authenticate"]) == (
        401,
        "42501",
        "Bearer",
    )
    assert (user.status_code, user.json()["code"]) == (403, "42501")


async def test_no_function_takes_these_arguments(door: httpx.AsyncClient) -> None:
    for body in ({}, {"big": 1, "unknown": 2}, {"price": 1}):
        answer = await door.post("/take", headers=SERVICE, json=body)
        assert (answer.status_code, answer.json()["code"]) == (404, "PGRST202")
    assert (await door.post("/absent", headers=SERVICE)).json()["code"] == "PGRST202"


async def test_a_body_that_is_no_object(door: httpx.AsyncClient) -> None:
    for body in ("{", "[1]", "1", '{"big": }'):
        answer = await door.post("/take", headers=SERVICE, content=body)
        assert (answer.status_code, answer.json()["code"]) == (400, "PGRST102")


async def test_only_the_schema_api_is_exposed(door: httpx.AsyncClient) -> None:
    del door.headers["content-profile"]
    profiles: list[dict[str, str]] = [{}, *({"content-profile": name} for name in ("gateway", "public", ""))]
    for profile in profiles:
        answer = await door.post("/who", headers=SERVICE | profile)
        assert (answer.status_code, answer.json()["code"]) == (406, "PGRST106")


async def test_a_token_must_be_ours_and_fresh(door: httpx.AsyncClient) -> None:
    forged = jwt.encode({"role": "service_role"}, "another secret of 32 bytes and more", "HS256")
    unsigned = jwt.encode({"role": "service_role"}, "", "none")
    for bad in (forged, unsigned, "nonsense"):
        answer = await door.post("/who", headers={"authorization": f"Bearer {bad}"})
        assert (answer.status_code, answer.json()["code"]) == (401, "PGRST301")
    answer = await door.post("/who", headers=token(role="service_role", exp=int(time.time()) - 60))
    assert (answer.status_code, answer.json()["code"]) == (401, "PGRST303")


async def test_a_database_that_is_away(unused_tcp_port: int) -> None:
    with served(postgrest.app(f"postgresql://postgres@127.0.0.1:{unused_tcp_port}/postgres", SECRET)) as address:
        async with httpx.AsyncClient(base_url=address, headers={"content-profile": "api"} | SERVICE) as client:
            answer = await client.post("/rest/v1/rpc/who")
    assert (answer.status_code, answer.json()["code"]) == (503, "PGRST001")
