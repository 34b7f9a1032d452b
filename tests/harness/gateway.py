"""A whole gateway for one test: its apps behind a real socket, a database of its own, and providers that do as told."""

from __future__ import annotations

import asyncio
import importlib
import json
import os
import socket
import ssl
from contextlib import asynccontextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any

import asyncpg
import httpx
import pytest
import uvicorn

from container import app as container
from gateway import database as door
from gateway import outbound, providers, settings, sse
from gateway.database import Failure, Transport
from gateway.database.postgres import Postgres
from gateway.providers.base import Provider
from gateway.providers.sandbox import Sandbox
from gateway.scopes import Scope
from local import seed
from local.aws_lambda import LocalLambda
from tests.harness import doors
from tests.harness.builders import dump

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, MutableMapping

    from tests.harness.postgres import Database

    type Row = dict[str, Any]

DEADLINE_S = 20
PLAIN = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""Loopback speaks plain HTTP; a client without a context reads every authority's certificate first (35 ms)."""
TEMPLATE = Path(__file__).parents[2] / "template.yaml"
DATABASE_PASSWORD = "a-password-of-the-database"
NOBODY = f"postgresql://gateway:{DATABASE_PASSWORD}@127.0.0.1:1/gateway"
"""A port where nothing listens."""
CANARY = "kanari-0f6e1d"
"""Stands for a secret: it is where nobody may read it."""
serving = ContextVar("serving", default="jobs")
"""The group whose request it is; a job where it is none."""
NAMES = {importlib.import_module(f"{name}.handler").app: name for name in container.GROUPS}
PROVIDER_KEY = "a-key-of-the-gateways-own-with-a-provider"
GPT = "openai/gpt-4o-mini"
"""Of the seed's models, one that openrouter offers, and after it portkey."""
HELLO: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]


async def eventually[T](found: Callable[[], Awaitable[T]]) -> T:
    """What `found` gives once that is true. Raises TimeoutError."""
    async with asyncio.timeout(DEADLINE_S):
        while not (value := await found()):  # noqa: ASYNC110 - the database has no events
            await asyncio.sleep(0.005)
    return value


async def app(scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
    """Every group behind one address, each by its own login to the database."""
    group = container.app.serving(scope["path"])
    serving.set(NAMES.get(group, "jobs"))
    await group(scope, receive, send)


@asynccontextmanager
async def listening(served: Any, http: Any = "auto") -> AsyncIterator[str]:
    """The address of an ASGI app that runs in this loop, its connections being `http`."""
    # asyncio turns Nagle's algorithm off only where the socket says that it is TCP
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind(("127.0.0.1", 0))
    config = uvicorn.Config(
        served, http=http, log_level="critical", lifespan="off", ws="none", access_log=False, proxy_headers=False
    )
    config.load()
    server = uvicorn.Server(config)
    server.lifespan = config.lifespan_class(config)
    await server.startup([listener])
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        await _closed(server)


async def _closed(server: uvicorn.Server) -> None:
    """End a server as `shutdown` does, but without its pause of 100 ms."""
    for each in server.servers:
        each.close()
    for connection in list(server.server_state.connections):
        connection.shutdown()
    for task in list(server.server_state.tasks):
        task.cancel()
    await asyncio.gather(*server.server_state.tasks, return_exceptions=True)
    for connection in list(server.server_state.connections):
        connection.transport.abort()


class Line:
    """The gateway's line to its database, as the group logs in that is serving: what is called is counted. Functions
    named in `cut` are not reached; of those in `deaf` the next answer is lost, and what they did is not; those in
    `failing` fail in the database, and those in `broken` before it, as nobody foresaw.
    """

    def __init__(self, database: Database, door_url: str | None = None) -> None:
        """`door_url` is where Supabase's API of this database is, if that is the way to it."""
        self.calls: list[str] = []
        self.cut: set[str] = set()
        self.deaf: set[str] = set()
        self.broken: set[str] = set()
        self.failing: set[str] = set()
        self._database, self._sound, self._dead = database, dict[str, Transport](), Postgres(NOBODY)
        self._door_url = door_url

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        self.calls.append(name)
        if name in self.broken:
            raise RuntimeError(f"something about {CANARY}")
        if name in self.failing:
            raise Failure("XX000", CANARY)
        answer = await (self._dead if name in self.cut else self._of(serving.get())).call(name, arguments)
        if name in self.deaf:
            self.deaf.remove(name)
            raise Failure("08006", "connection lost")
        return answer

    async def close(self) -> None:
        for transport in (*self._sound.values(), self._dead):
            await transport.close()

    def _of(self, group: str) -> Transport:
        if group not in self._sound:
            login = with_password(self._database.login(group))
            self._sound[group] = doors.client(self._door_url, group) if self._door_url else Postgres(login)
        return self._sound[group]


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
    """A running gateway, a customer of it with $100, and an operator; `books` is a connection as its owner."""

    def __init__(self, url: str, books: asyncpg.Connection) -> None:
        self.url, self.books = url, books
        self.user_id, self.key, self.admin_key = 0, "", ""
        self.client = httpx.AsyncClient(base_url=url, timeout=DEADLINE_S, trust_env=False, verify=PLAIN)

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
        self.key = await self.a_key()
        return self.key

    async def a_key(self, environment: str = "dev", *scopes: Scope) -> str:
        """A further key of the customer's, with every scope unless some are named."""
        minted = await seed.add_key(self.books, self.user_id, environment, scopes or tuple(Scope))
        return minted.plaintext

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
        """The records of requests that were answered."""
        return await self.rows("select * from gateway.usage_records where outcome <> 'failed' order by created_at")

    async def failures(self) -> list[Row]:
        """The records of requests that every provider failed."""
        return await self.rows("select * from gateway.usage_records where outcome = 'failed' order by created_at")

    async def expire(self) -> None:
        """Let every open hold's time be over, and sweep."""
        await self.books.execute("update gateway.credit_holds set expires_at = now() where state = 'held'")
        await self.books.fetchval("select api.expire_holds()")

    async def tables(self) -> dict[str, list[str]]:
        """All that is in the database, but for the counts of refusals and of management requests."""
        found, taken = await dump(self.books), "gateway.rate_limit_buckets"
        return {**found, "gateway.refusals": [], taken: [r for r in found[taken] if not r.startswith("(management")]}


class InProcess(Gateway):
    """The apps in this loop, as in a container, with `providers` by name and a `line` to the database."""

    def __init__(self, url: str, books: asyncpg.Connection, line: Line, available: dict[str, Provider]) -> None:
        super().__init__(url, books)
        self.line, self.providers = line, available

    def connect(self, name: str, address: str) -> None:
        """Have a provider at this address, by its real adapter."""
        self.providers[name] = providers.ADAPTERS[name](settings.load({**os.environ, **provider(name, address)}))


class OnLambda(Gateway):
    """The functions of the real template in processes of their own, behind the local API Gateway."""

    def __init__(self, url: str, books: asyncpg.Connection, aws: LocalLambda, log: list[str]) -> None:
        super().__init__(url, books)
        self.aws, self.log = aws, log

    def kill(self, function: str = "ChatFunction") -> None:
        """End every process of a function, as Lambda may: SIGKILL."""
        for environment in self.aws.pools[function].environments:
            assert environment.process is not None
            environment.process.kill()

    async def sweep(self) -> None:
        """Let every open hold's time be over, and have the job end them."""
        await self.books.execute("update gateway.credit_holds set expires_at = now() where state = 'held'")
        await self.aws.invoke("JobsFunction", {"job": "expire_holds"})


def with_password(url: str) -> str:
    """A login's address with a password, which the server does not ask for."""
    return url.replace("@", f":{DATABASE_PASSWORD}@", 1)


def provider(name: str, address: str) -> dict[str, str]:
    """The settings of a provider at this address."""
    return {f"{name.upper()}_API_KEY": PROVIDER_KEY, f"{name.upper()}_BASE_URL": address}


@asynccontextmanager
async def seeded(gateway: Gateway, database: Database) -> AsyncIterator[None]:
    """The seed's catalogue and customer, for a gateway that is running."""
    keys = database.seeded or await seed.seed(database.admin)
    gateway.key, gateway.admin_key = keys.customer_key, keys.admin_key
    gateway.user_id = await gateway.books.fetchval("select id from gateway.users where username = $1", seed.CUSTOMER)
    async with gateway.client:
        yield


@asynccontextmanager
async def books_of(database: Database) -> AsyncIterator[asyncpg.Connection]:
    """A connection as the operator."""
    connection = await asyncpg.connect(database.admin)
    try:
        yield connection
    finally:
        await connection.close()


@pytest.fixture
async def customer(database: Database) -> AsyncIterator[Gateway]:
    """A customer and the books, for what has no address."""
    async with books_of(database) as books:
        known = Gateway("http://127.0.0.1:1", books)
        async with seeded(known, database):
            yield known


@pytest.fixture
async def gateway(
    database: Database, door_url: str | None, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[InProcess]:
    """A gateway in this process; the sandbox answers, and whom a test connects."""
    line = Line(database, door_url)
    available: dict[str, Provider] = {"sandbox": Sandbox()}
    monkeypatch.setattr(providers, "available", lambda: available)
    door.use(line)
    try:
        async with books_of(database) as books, listening(app) as url:
            running = InProcess(url, books, line, available)
            async with seeded(running, database):
                yield running
    finally:
        await outbound.close()
        await door.close()


@asynccontextmanager
async def on_lambda(
    database: Database,
    queues: Path,
    environment: Mapping[str, str] | None = None,
    own: Callable[[str], Mapping[str, str]] | None = None,
    parameters: Mapping[str, str] | None = None,
) -> AsyncIterator[OnLambda]:
    """A gateway on the local Lambda, whose groups have `own` settings: their roles' logins, unless told otherwise."""
    log: list[str] = []
    secrets = {name: os.environ[name] for name in ("KEY_PEPPERS", "SEALING_KEYS")}
    arns = dict.fromkeys(settings.SECRETS, "")
    login = own or (lambda group: {"DATABASE_URL": with_password(database.login(group))})
    variables = {"STAGE": "dev", **secrets, **arns, **(environment or {})}
    aws = LocalLambda(
        TEMPLATE, variables, queues, lambda function, line: log.append(f"{function} {line}"), login, parameters
    )
    async with books_of(database) as books:
        running = OnLambda(await aws.start(), books, aws, log)
        try:
            async with seeded(running, database):
                yield running
        finally:
            await aws.stop()
