"""Both transports keep the same promises on a real Postgres, the supabase one through a real HTTP server."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit
from uuid import UUID, uuid4

import asyncpg
import pytest

from gateway import database, errors
from gateway.database import postgres as postgres_transport
from gateway.database.postgres import Postgres
from gateway.database.supabase import Supabase
from local import postgres, postgrest
from tests.harness.postgres import Database, binaries, prepare, running
from tests.harness.web import Wire, served

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Iterator


SECRET = "a secret that signs tokens, 32 bytes and more"
CANARY = "row 4711 of somebody else"

API = (Path(__file__).parent / "transports.sql").read_text()

SETTING = "do $$ begin execute format($_$alter database %I set {}$_$, current_database()); end $$"


@asynccontextmanager
async def connected(kind: str, place: Database, port: int | None = None) -> AsyncIterator[None]:
    """Sends `database.call` to one database by one transport; `port` is another way to the server."""
    async with AsyncExitStack() as stack:
        if kind == "postgres":
            database.use(Postgres(_at(place.service, port)))
        else:
            url = stack.enter_context(served(postgrest.app(place.admin, SECRET)))
            database.use(Supabase(_at(url, port), postgrest.service_key(SECRET)))
        stack.push_async_callback(database.close)
        yield


def _at(url: str, port: int | None) -> str:
    return url.replace(f":{urlsplit(url).port}", f":{port}") if port else url


@pytest.fixture(params=["postgres", "supabase"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def place(database: Database) -> Database:
    await database.execute(API)
    return database


@pytest.fixture
async def transport(kind: str, place: Database) -> AsyncIterator[Database]:
    async with connected(kind, place):
        yield place


async def runs(place: Database) -> int:
    """How often a function that counts its runs was run, undone runs included."""
    connection = await asyncpg.connect(place.admin)
    try:
        return int(await connection.fetchval("select case when is_called then last_value else 0 end from probe.runs"))
    finally:
        await connection.close()


async def effects(place: Database) -> int:
    connection = await asyncpg.connect(place.admin)
    try:
        return int(await connection.fetchval("select count(*) from probe.effects"))
    finally:
        await connection.close()


def echo(**changes: Any) -> Awaitable[Any]:
    arguments = {"label": None, "number": None, "flag": None, "moment": None, "id": None, "members": None}
    return database.call("echo", **(arguments | changes))


@pytest.mark.usefixtures("transport")
async def test_arguments_and_results_keep_their_values() -> None:
    identity, moment = UUID(int=7), datetime(2026, 11, 1, 12, 30, 0, 250000, UTC)
    members = {"text": 'é " \\ 文 🙂', "list": [1, 2.5, None, True], "big": 2**63 - 1}
    answer = await echo(label="'; drop", number=2**63 - 1, flag=True, moment=moment, id=identity, members=members)
    assert answer.pop("role") in {"gateway", "service_role"}
    assert answer == {
        "label": "'; drop",
        "number": 9223372036854775807,
        "flag": True,
        "id": str(identity),
        "members": members,
        "moment": moment.timestamp(),
    }


@pytest.mark.usefixtures("transport")
async def test_none_becomes_null_and_comes_back() -> None:
    assert await database.call("nothing") is None
    answer = await echo(members=[])
    assert answer["members"] == []
    assert answer["label"] is None
    assert answer["number"] is None


@pytest.mark.usefixtures("transport")
async def test_a_refusal_is_the_error_with_its_detail() -> None:
    detail = '{"retry_after_ms": 1500, "param": "model", "balance_usd": "0.01"}'
    with pytest.raises(errors.InsufficientCredits) as caught:
        await database.call("refuse", code="PT402", message="insufficient_credits", detail=detail)
    assert type(caught.value) is errors.InsufficientCredits
    assert (caught.value.retry_after_ms, caught.value.param) == (1500, "model")
    assert caught.value.metadata == {"balance_usd": "0.01"}


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("detail", [None, "", "no json", "[1]"])
async def test_a_refusal_needs_no_detail(detail: str | None) -> None:
    with pytest.raises(errors.RateLimitExceeded) as caught:
        await database.call("refuse", code="PT429", message="rate_limit_exceeded", detail=detail or "")
    assert caught.value.metadata == {}


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("code", ["P0001", "22P02", "23505", "42501", "XX000", "ZZ999", "PT418", "PT500"])
async def test_an_unknown_failure_leaks_nothing(code: str) -> None:
    with pytest.raises(errors.InternalError) as caught:
        await database.call("refuse", code=code, message=CANARY, detail=CANARY)
    shown = f"{caught.value} {caught.value.body('r')} {caught.value.headers()}"
    assert "4711" not in shown
    assert isinstance(caught.value.__cause__, database.Failure)
    assert caught.value.__cause__.code == code


@pytest.mark.parametrize("code", ["08004", "53100", "53200", "53300", "57014", "57P03", "25006"])
async def test_a_database_that_cannot_is_unavailable_at_once(transport: Database, code: str) -> None:
    with pytest.raises(errors.DatabaseUnavailable):
        await database.call("refuse", code=code, message=CANARY, detail="")
    assert await runs(transport) == 1


@pytest.mark.parametrize("code", ["40001", "40P01", "55P03"])
async def test_contention_is_tried_three_times(transport: Database, code: str) -> None:
    with pytest.raises(errors.DatabaseUnavailable):
        await database.call("refuse", code=code, message=CANARY, detail="")
    assert await runs(transport) == 3


async def test_a_broken_connection_is_replaced_once(transport: Database) -> None:
    with pytest.raises(errors.DatabaseUnavailable):
        await database.call("refuse", code="57P01", message=CANARY, detail="")
    assert await runs(transport) == 2


async def test_both_sides_of_a_deadlock_succeed(kind: str, place: Database) -> None:
    await place.execute(SETTING.format("deadlock_timeout = '20ms'"))
    async with connected(kind, place):
        one, other = database.call("cross", first=1, second=2), database.call("cross", first=2, second=1)
        assert list(await asyncio.gather(one, other)) == [True, True]
    assert await runs(place) > 2  # one was undone and sent again


async def test_a_function_out_of_time_is_unavailable(kind: str, place: Database) -> None:
    await place.execute(SETTING.format("statement_timeout = '30ms'"))
    async with connected(kind, place):
        with pytest.raises(errors.DatabaseUnavailable):
            await database.call("sleep", seconds=10)
        assert await database.call("sleep", seconds=0) is True


@pytest.mark.usefixtures("transport")
async def test_a_function_that_is_not_there_is_unavailable() -> None:
    with pytest.raises(errors.DatabaseUnavailable):
        await database.call("absent", id=1)
    with pytest.raises(errors.DatabaseUnavailable):
        await database.call("effect", other=1)


@pytest.mark.usefixtures("transport")
@pytest.mark.parametrize("name", ["echo(); drop schema api", "echo ", "", "a.b", 'a"b'])
async def test_only_names_are_called(name: str) -> None:
    with pytest.raises(ValueError, match="not an SQL name"):
        await database.call(name)


@pytest.mark.usefixtures("transport")
async def test_many_calls_at_once() -> None:
    answers = await asyncio.gather(*(echo(number=number) for number in range(50)))
    assert [answer["number"] for answer in answers] == list(range(50))


async def test_terminated_connections_are_replaced(transport: Database) -> None:
    assert await asyncio.gather(*(database.call("sleep", seconds=0.01) for _ in range(5))) == [True] * 5
    await transport.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid()"
    )
    for _ in range(5):
        await echo()


async def test_a_lost_answer_is_asked_for_again_without_a_second_effect(kind: str, place: Database) -> None:
    async with AsyncExitStack() as stack:
        far = urlsplit(place.service).port
        if kind == "supabase":
            far = urlsplit(stack.enter_context(served(postgrest.app(place.admin, SECRET)))).port
        wire = await stack.enter_async_context(Wire(far or 0).open())
        near: database.Transport = Supabase(f"http://127.0.0.1:{wire.port}", postgrest.service_key(SECRET))
        if kind == "postgres":
            near = Postgres(_at(place.service, wire.port))
        database.use(near)
        stack.push_async_callback(database.close)
        await database.call("effect", id=uuid4())
        wire.cut_next_reply()
        identity = uuid4()
        assert await database.call("effect", id=identity) == str(identity)
        assert (await runs(place), await effects(place)) == (3, 2)


async def test_functions_may_be_replaced_under_live_connections(transport: Database) -> None:
    done = asyncio.Event()

    async def keep_calling() -> int:
        calls = 0
        while not done.is_set():
            assert (await echo(number=calls))["number"] == calls
            calls += 1
        return calls

    callers = [asyncio.create_task(keep_calling()) for _ in range(4)]
    for _ in range(10):
        await transport.execute(f"begin; {API} commit;")
    done.set()
    assert min(await asyncio.gather(*callers)) > 0


async def test_a_replaced_function_may_take_other_types(transport: Database) -> None:
    create = "create function api.typed(value {0}) returns jsonb language sql as 'select to_jsonb(value)'"
    grant = "; grant execute on function api.typed to service_role;"
    await transport.execute(create.format("text") + grant)
    assert await database.call("typed", value="1") == "1"
    await transport.execute("drop function api.typed;" + create.format("bigint") + grant)
    assert await database.call("typed", value=1) == 1


@pytest.fixture(scope="module")
def mortal_server() -> Iterator[postgres.Server]:
    """A server that tests may stop."""
    with running(binaries()) as (server, _):
        asyncio.run(prepare(server))
        yield server


@pytest.fixture
async def mortal(mortal_server: postgres.Server) -> Database:
    place = Database(mortal_server.url(), mortal_server.url(user="gateway"))
    await place.execute(API)
    return place


async def test_a_restart_between_two_calls_is_not_noticed(
    kind: str, mortal: Database, mortal_server: postgres.Server
) -> None:
    async with connected(kind, mortal):
        await asyncio.gather(*(database.call("sleep", seconds=0.01) for _ in range(5)))
        mortal_server.stop()
        mortal_server.start()
        await asyncio.gather(*(echo() for _ in range(5)))


async def test_a_stopped_server_is_unavailable_until_it_is_back(
    kind: str, mortal: Database, mortal_server: postgres.Server
) -> None:
    async with connected(kind, mortal):
        await echo()
        mortal_server.stop()
        try:
            for _ in range(2):
                with pytest.raises(errors.DatabaseUnavailable):
                    await echo()
        finally:
            mortal_server.start()
        await echo()


@pytest.mark.usefixtures("transport")
async def test_a_call_that_is_given_up_leaves_the_others_alone() -> None:
    given_up = [asyncio.create_task(database.call("sleep", seconds=30)) for _ in range(12)]
    await asyncio.sleep(0)  # ten are under way, two wait for a connection
    for call in given_up:
        call.cancel()
    assert all(
        isinstance(end, asyncio.CancelledError) for end in await asyncio.gather(*given_up, return_exceptions=True)
    )
    answers = await asyncio.gather(*(echo(number=number) for number in range(20)))
    assert [answer["number"] for answer in answers] == list(range(20))


def test_each_event_loop_has_its_own_connections(place: Database) -> None:
    async def once() -> Any:
        database.use(Postgres(place.service))
        try:
            return await database.call("nothing")
        finally:
            await database.close()

    assert asyncio.run(once()) is None
    assert asyncio.run(once()) is None


async def test_a_pooler_is_sent_no_prepared_statements(place: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    database.use(Postgres(place.service))
    assert await database.call("prepared") == 1
    await database.close()
    monkeypatch.setattr(postgres_transport, "TRANSACTION_POOLER_PORT", urlsplit(place.service).port)
    database.use(Postgres(place.service))
    assert await database.call("prepared") == 0
    await database.close()
    database.use(Postgres(place.service, "session"))
    assert await database.call("prepared") == 1
    await database.close()


async def test_the_first_sign_of_a_pooler_ends_the_cache(place: Database, capsys: pytest.CaptureFixture[str]) -> None:
    database.use(Postgres(place.service))
    waiting = [asyncio.create_task(database.call("sleep", seconds=0.2)) for _ in range(3)]
    identity = uuid4()
    assert await database.call("effect", id=identity) == str(identity)
    await database.call("forget")
    assert await database.call("effect", id=identity) == str(identity)
    assert await asyncio.gather(*waiting) == [True, True, True]  # on connections that keep statements
    assert [await database.call("prepared") for _ in range(5)] == [0, 0, 0, 0, 0]
    assert capsys.readouterr().out.count("database_pooler_found") == 1
    assert await effects(place) == 1
    await database.close()


@pytest.mark.usefixtures("transport")
async def test_an_argument_of_the_wrong_type_is_our_own_mistake() -> None:
    with pytest.raises(errors.InternalError):
        await echo(number="many")
    await echo()


@pytest.mark.parametrize(
    ("kind", "unused"), [("postgres", "supabase"), ("supabase", "asyncpg")], ids=["postgres", "supabase"]
)
async def test_settings_choose_one_transport_and_load_it_alone(kind: str, unused: str, place: Database) -> None:
    program = f"import asyncio, sys; from gateway import database; print(asyncio.run(database.call('nothing')), '{unused}' in sys.modules)"  # noqa: E501
    environment = {
        "STAGE": "dev",
        "KEY_PEPPERS": "v1:0123456789abcdef",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    with served(postgrest.app(place.admin, SECRET)) as url:
        if kind == "postgres":
            environment["DATABASE_URL"] = place.service
        else:
            environment |= {"SUPABASE_URL": url, "SUPABASE_SERVICE_KEY": postgrest.service_key(SECRET)}
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", program, env=environment, stdout=subprocess.PIPE
        )
        output, _ = await process.communicate()
    assert output.decode().split() == ["None", "False"]
