"""What is behind the door when there is no database: a proxy's page, PostgREST without a connection, nobody."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from starlette.applications import Starlette
from starlette.responses import Response
from starlette.routing import Route

from gateway import database, errors
from gateway.database.postgres import Postgres
from gateway.database.supabase import Supabase
from tests.harness.web import served

FOREIGN: list[tuple[int, str, str]] = [
    (502, "text/html", "<html>Bad Gateway</html>"),
    (200, "text/html", "<html>Just a moment…</html>"),
    (503, "application/json", '{"code":"PGRST002","message":"no schema cache","details":null,"hint":null}'),
    (503, "application/json", '{"code":"PGRST000","message":"no database","details":null,"hint":null}'),
    (504, "application/json", '{"code":"PGRST003","message":"no connection","details":null,"hint":null}'),
    (404, "application/json", '{"code":"PGRST202","message":"no function","details":null,"hint":null}'),
    (503, "application/json", '{"message":"name resolution failed"}'),
    (520, "application/json", "not json"),
    (500, "text/plain", ""),
]


@pytest.mark.parametrize(("status", "media", "body"), FOREIGN)
async def test_what_postgrest_cannot_answer_is_unavailable(status: int, media: str, body: str) -> None:
    app = Starlette(
        routes=[Route("/{path:path}", lambda _: Response(body, status, media_type=media), methods=["POST"])]
    )
    with served(app) as url:
        database.use(Supabase(url, "key"))
        try:
            with pytest.raises(errors.DatabaseUnavailable):
                await database.call("nothing")
        finally:
            await database.close()


async def test_nobody_listens() -> None:
    transports: list[Callable[[], database.Transport]] = [
        lambda: Postgres("postgresql://gateway@127.0.0.1:1/postgres"),
        lambda: Supabase("http://127.0.0.1:1", "key"),
    ]
    for transport in transports:
        database.use(transport())
        with pytest.raises(errors.DatabaseUnavailable):
            await database.call("nothing")
        await database.close()
