"""A whole gateway for one test: its apps behind a real socket, a database of its own, and providers the test plays."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import pytest
import uvicorn

from account.handler import app as account
from catalog.handler import app as catalog
from chat.handler import app as chat
from gateway import database as database_door
from gateway import outbound, providers, sse
from gateway.database.postgres import Postgres
from gateway.outbound import Reply
from gateway.providers.base import Provider
from gateway.providers.sandbox import Sandbox
from health.handler import app as health
from local import seed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping

    from tests.harness.postgres import Database

    type Row = dict[str, Any]

DEADLINE_S = 20
NOBODY = "postgresql://gateway@127.0.0.1:1/gateway"
"""A port where nothing listens."""
GROUPS = {"/v1/models": catalog, "/v1/credits": account, "/v1/key": account, "/health": health, "/ping": health}
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]


async def eventually[T](found: Callable[[], Awaitable[T]]) -> T:
    """What `found` gives once that is true. Raises TimeoutError."""
    async with asyncio.timeout(DEADLINE_S):
        while not (value := await found()):  # noqa: ASYNC110 - the database has no events
            await asyncio.sleep(0.005)
    return value


async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    """Every group behind one address, as the REST API has them."""
    group = next((group for path, group in GROUPS.items() if scope["path"].startswith(path)), chat)
    await group(scope, receive, send)


@asynccontextmanager
async def listening(served: Any) -> AsyncIterator[str]:
    """The address of an ASGI app that runs in this loop."""
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(served, log_level="critical", lifespan="off", ws="none", access_log=False)
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([listener])
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        server.force_exit = True
        await server.shutdown([listener])


class Line:
    """The gateway's line to its database: what is called is counted, and functions named in `cut` are not reached."""

    def __init__(self, url: str) -> None:
        self.calls: list[str] = []
        self.cut: set[str] = set()
        self._sound, self._dead = Postgres(url), Postgres(NOBODY)

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        self.calls.append(name)
        return await (self._dead if name in self.cut else self._sound).call(name, arguments)

    async def close(self) -> None:
        await self._sound.close()
        await self._dead.close()


type Step = bytes | Exception | asyncio.Event
"""Of a played answer: bytes that come, an error that is raised, an event that is waited for."""


class Played(Provider):
    """A provider that the test plays; `requests` are the bodies it was asked with."""

    def __init__(self, name: str, *steps: Step, status: int = 200, headers: Mapping[str, str] | None = None) -> None:
        self.name, self.steps, self.status, self.answer_headers = name, steps, status, headers or {}
        self.requests: list[dict[str, Any]] = []
        self.closed = asyncio.Event()

    async def send(self, body: dict[str, Any]) -> Reply:
        self.requests.append(body)
        return _Exchange(self)


class _Exchange:
    def __init__(self, provider: Played) -> None:
        self.status, self.headers = provider.status, provider.answer_headers
        self._steps: Iterator[Step] = iter(provider.steps)
        self._gate: asyncio.Event | None = None
        self._closed = provider.closed

    async def read(self, wait: float) -> bytes | None:
        step = self._gate or next(self._steps, b"")
        if isinstance(step, asyncio.Event):
            self._gate = step
            try:
                await asyncio.wait_for(step.wait(), wait)
            except TimeoutError:
                return None
            self._gate = None
            return await self.read(wait)
        if isinstance(step, Exception):
            raise step
        return step

    def close(self) -> None:
        self._closed.set()


def event(payload: Any) -> bytes:
    return sse.event(json.dumps(payload).encode())


def delta(text: str, **members: Any) -> bytes:
    """An event with a piece of the first choice's text."""
    choice = {"index": 0, "delta": {"content": text, **members}, "finish_reason": None}
    return event({"id": "up-1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": [choice]})


def finish(reason: str = "stop") -> bytes:
    return event({"id": "up-1", "choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})


def usage(**members: Any) -> bytes:
    """An event with the usage of an answer: 10 and 5 tokens, unless told otherwise."""
    return event({"id": "up-1", "choices": [], "usage": {"prompt_tokens": 10, "completion_tokens": 5, **members}})


DONE = sse.event(sse.DONE)


def answer(text: str = "Hello there", **members: Any) -> bytes:
    """A whole completion, not streamed."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    told = {"id": "up-1", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice]}
    return json.dumps(told | {"usage": {"prompt_tokens": 10, "completion_tokens": 5}} | members).encode()


class Told:
    """A streamed answer as a client reads it: every event's payload, and the comments between them."""

    def __init__(self, response: httpx.Response, body: bytes) -> None:
        self.status, self.headers, self.body = response.status_code, response.headers, body
        blocks = [block.decode() for block in body.split(b"\n\n") if block]
        self.comments = [block for block in blocks if block.startswith(":")]
        self.payloads = [block.removeprefix("data: ") for block in blocks if block.startswith("data: ")]
        self.done = bool(self.payloads) and self.payloads[-1] == "[DONE]"
        self.chunks: list[dict[str, Any]] = [json.loads(payload) for payload in self.payloads if payload != "[DONE]"]

    @property
    def text(self) -> str:
        return "".join(choice["delta"].get("content") or "" for choice in self.choices())

    @property
    def error(self) -> dict[str, Any] | None:
        return next((chunk["error"] for chunk in self.chunks if "error" in chunk), None)

    @property
    def usage(self) -> dict[str, Any] | None:
        return next((chunk["usage"] for chunk in self.chunks if chunk.get("usage")), None)

    def choices(self, index: int = 0) -> list[dict[str, Any]]:
        return [choice for chunk in self.chunks for choice in chunk["choices"] if choice["index"] == index]


class Gateway:
    """The running gateway. `key` is a customer's with $100; `played` are the providers by name, sandbox included."""

    def __init__(self, url: str, books: asyncpg.Connection, line: Line, played: dict[str, Provider]) -> None:
        self.url, self.books, self.line, self.played = url, books, line, played
        self.user_id, self.key = 0, ""
        self.client = httpx.AsyncClient(base_url=url, timeout=DEADLINE_S, trust_env=False)

    def headers(self, headers: Mapping[str, str] | None = None, key: str | None = None) -> dict[str, str]:
        return {"authorization": f"Bearer {key or self.key}", **(headers or {})}

    async def ask(
        self, headers: Mapping[str, str] | None = None, *, key: str | None = None, **body: Any
    ) -> httpx.Response:
        """One completion in one piece."""
        whole = {"model": "sandbox/chat", "messages": HELLO, **body}
        return await self.client.post("/v1/chat/completions", headers=self.headers(headers, key), json=whole)

    async def stream(self, headers: Mapping[str, str] | None = None, *, key: str | None = None, **body: Any) -> Told:
        """One completion, streamed."""
        response = await self.ask(headers, key=key, stream=True, **body)
        return Told(response, response.content)

    @asynccontextmanager
    async def reading(self, **body: Any) -> AsyncIterator[AsyncIterator[bytes]]:
        """A streamed completion that is being read; its client leaves with the block."""
        whole = {"model": "sandbox/chat", "messages": HELLO, "stream": True, **body}
        path, headers = "/v1/chat/completions", self.headers()
        async with self.client.stream("POST", path, headers=headers, json=whole) as response:
            assert response.status_code == 200
            yield response.aiter_raw()

    async def customer(self, credit_nano: int, name: str = "other") -> str:
        """A further user with this much credit; returns a key, which `key` may become."""
        self.user_id = await seed.add_user(self.books, name, credit_nano=credit_nano)
        self.key = (await seed.add_key(self.books, self.user_id)).plaintext
        return self.key

    async def rows(self, query: str, *values: Any) -> list[Row]:
        return [dict(row) for row in await self.books.fetch(query, *values)]

    async def balance(self) -> int:
        """The customer's credit in nano-dollars."""
        found = await self.books.fetchval("select credits_nano from gateway.users where id = $1", self.user_id)
        return int(found)

    async def held(self) -> int:
        """What all users' open holds bind, in nano-dollars."""
        return int(await self.books.fetchval("select sum(held_nano) from gateway.users"))

    async def holds(self) -> list[str]:
        """The states of all holds, oldest first."""
        return [row["state"] for row in await self.rows("select state from gateway.credit_holds order by created_at")]

    async def ended(self, count: int = 1) -> list[str]:
        """The states of all holds, once there are `count` and none is open."""

        async def found() -> list[str] | None:
            states = await self.holds()
            return states if len(states) == count and "held" not in states else None

        return await eventually(found) or []

    async def usage(self) -> list[Row]:
        return await self.rows("select * from gateway.usage_records order by created_at")

    async def expire(self) -> None:
        """Let every open hold's time be over, and sweep."""
        await self.books.execute("update gateway.credit_holds set expires_at = now() where state = 'held'")
        await self.books.fetchval("select api.expire_holds()")

    async def tables(self) -> dict[str, Any]:
        """All that is in the database."""
        return await contents(self.books)


async def contents(connection: asyncpg.Connection) -> dict[str, Any]:
    """Each table's rows, as text."""
    tables = await connection.fetch(
        "select relname from pg_class where relnamespace = 'gateway'::regnamespace"
        " and relkind in ('r', 'p') and not relispartition"
    )
    return {
        name: await connection.fetchval(f"select string_agg(t::text, E'\\n' order by t::text) from gateway.{name} t")  # noqa: S608
        for (name,) in tables
    }


@asynccontextmanager
async def books_of(url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the operator."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def gateway(database: Database, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gateway]:
    """A gateway with the seed's catalogue and customer; only the sandbox answers, and what a test adds to `played`."""
    seeded = await seed.seed(database.admin)
    line = Line(database.service)
    played: dict[str, Provider] = {"sandbox": Sandbox()}
    monkeypatch.setattr(providers, "available", lambda: played)
    database_door.use(line)
    async with books_of(database.admin) as books, listening(app) as url:
        running = Gateway(url, books, line, played)
        running.key = seeded.customer_key
        running.user_id = await books.fetchval("select id from gateway.users where username = $1", seed.CUSTOMER)
        try:
            yield running
        finally:
            await running.client.aclose()
            await outbound.close()
            await database_door.close()
