"""`make run`: the whole gateway on this machine, until Ctrl-C.

A Postgres (yours with DATABASE_URL, else one of its own), the schema, a customer with credit, and every Lambda function
of template.yaml in processes of its own behind a local API Gateway. PORT chooses the port, TRANSPORT=supabase sends the
functions' database calls through an RPC door as they would go to Supabase. Provider keys in the environment
(OPENROUTER_API_KEY and the like) are used; without any, the sandbox answers. PRIVY_APP_ID and SUPABASE_AUTH_URL in the
environment are who signs users in; without either, an issuer of our own is. Mails go to a mailbox here, unless
RESEND_API_KEY and MAIL_FROM are in the environment.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import NamedTuple

import asyncpg
import uvicorn
from starlette.applications import Starlette

from local import postgres, postgrest, schema
from local.aws_lambda import LocalLambda
from local.home import Home
from local.privy import Privy
from local.resend import Resend
from local.stripe import Stripe

ROOT = Path(__file__).parent.parent
DATABASE = "gateway"
FIRST_PORT = 8080
FIRST_DATABASE_PORT = 54320
TRIED_PORTS = 50


SIGN_IN = """Sign in as a user of your own application does:

  TOKEN=$(curl -s $GATEWAY_SIGN_IN/token -d '{"email": "you@example.com"}' | .venv/bin/python -c \\
    'import json, sys; print(json.load(sys.stdin)["identity_token"])')
  curl $GATEWAY_URL/auth/privy -H "Content-Type: application/json" -d "{\\"token\\": \\"$TOKEN\\"}"

and go on with docs/accounts.md and docs/money.md.
"""


type Own = Callable[[str], dict[str, str]]
"""The settings that only the function of a group has."""


class Place(NamedTuple):
    """A database: its operator's address, and for each group of functions the address and the role."""

    operator: str
    url: Callable[[str], str]
    role: Callable[[str], str]


def say(line: str) -> None:
    """Tell the person who waits."""
    print(line, flush=True)


async def main(folder: Path) -> None:
    """Start everything, say how to use it, and stop it all when asked to. What is kept is kept in `folder`."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    home = Home(folder)
    async with AsyncExitStack() as stack:
        place = await stack.enter_async_context(_database(home))
        keys = await _prepared(home, place.operator)
        transport = await stack.enter_async_context(_transport(home, place))
        issuer = await stack.enter_async_context(_issuer())
        stripe = await stack.enter_async_context(_stripe())
        paid = stripe.settings() if stripe else {}
        mail = await stack.enter_async_context(_mailbox(home))
        settings = home.settings() | issuer | paid | mail
        address = await stack.enter_async_context(_gateway(home, settings, transport))
        if stripe:
            stripe.webhook = f"{address}/api/stripe/webhook"
        env = {"GATEWAY_URL": address, "OPENAI_BASE_URL": f"{address}/v1", **keys, "DATABASE_URL": place.operator}
        if issuer:
            env["GATEWAY_SIGN_IN"] = issuer["PRIVY_BASE_URL"]
        if mail:
            env["GATEWAY_MAILBOX"] = mail["RESEND_BASE_URL"]
        _welcome(home.tell(env), env)
        if issuer:
            say(SIGN_IN)
        await stopped.wait()
        say("\nStopping …")
    say("Stopped. Your data is kept.")


@asynccontextmanager
async def _database(home: Home) -> AsyncIterator[Place]:
    """The database of DATABASE_URL, as who logs in there, else one of our own, where each function has its role."""
    given = os.environ.get("DATABASE_URL")
    # a shell that has read .gateway/env names our own server of the last run, which is not running any more
    if given and given != home.env().get("DATABASE_URL"):
        say("Using the database of DATABASE_URL …")
        yield Place(given, lambda _: given, lambda _: "service_role")
        return
    say("Starting Postgres …" if home.database.exists() else f"Making a Postgres in {home.folder.name}/ …")
    server = postgres.Server(postgres.binaries(), home.database, _free_port(FIRST_DATABASE_PORT))
    await asyncio.to_thread(server.start)
    try:
        connection = await asyncpg.connect(server.url())
        if not await connection.fetchval("select true from pg_database where datname = $1", DATABASE):
            await connection.execute(f"create database {DATABASE}")
        await connection.close()
        yield Place(server.url(DATABASE), lambda group: server.url(DATABASE, schema.role(group)), schema.role)
    finally:
        await asyncio.to_thread(server.stop)


async def _prepared(home: Home, url: str) -> dict[str, str]:
    """Bring the schema up to date and give the developer's keys, made at the first run."""
    try:
        for version in await schema.apply(url):
            say(f"Applied migration {version}")
    except schema.Unfit as reason:
        sys.exit(f"The schema cannot be applied. {reason}")
    os.environ |= home.settings() | {"DATABASE_URL": url}
    from local import seed  # noqa: PLC0415 - it reads the settings, which had to be there first

    kept = home.env()
    if "OPENAI_API_KEY" in kept and await seed.is_seeded(url):
        await seed.models(url)
        return {name: kept[name] for name in ("OPENAI_API_KEY", "GATEWAY_ADMIN_KEY")}
    seeded = await seed.seed(url)
    await seed.offers(url)
    return {"OPENAI_API_KEY": seeded.customer_key, "GATEWAY_ADMIN_KEY": seeded.admin_key}


@asynccontextmanager
async def _transport(home: Home, place: Place) -> AsyncIterator[Own]:
    """A group's settings of the database transport: postgres, or supabase through a door of our own."""
    if os.environ.get("TRANSPORT", "postgres") != "supabase":
        yield lambda group: {"DATABASE_URL": place.url(group)}
        return
    secret = home.secret("JWT_SECRET")
    async with _served(postgrest.app(place.operator, secret)) as address:
        say(f"Supabase's RPC door is at {address}")
        yield lambda group: {
            "DATABASE_URL": "",
            "SUPABASE_URL": address,
            "SUPABASE_SERVICE_KEY": postgrest.service_key(secret, place.role(group)),
        }


@asynccontextmanager
async def _issuer() -> AsyncIterator[dict[str, str]]:
    """The settings of an issuer of sign-in tokens that runs here; none where the environment names one."""
    if os.environ.get("PRIVY_APP_ID") or os.environ.get("SUPABASE_AUTH_URL"):
        yield {}
        return
    privy = Privy()
    async with _served(privy.app) as address:
        yield privy.settings(address)


@asynccontextmanager
async def _stripe() -> AsyncIterator[Stripe | None]:
    """Stripe in its fake's place; none where the environment has a key of the real one's."""
    if os.environ.get("STRIPE_SECRET_KEY"):
        yield None
        return
    account = Stripe()
    async with _served(account.app) as account.address:
        yield account


@asynccontextmanager
async def _mailbox(home: Home) -> AsyncIterator[dict[str, str]]:
    """The settings of a Resend that runs here and sends nothing to anybody; none where the environment names one."""
    if os.environ.get("RESEND_API_KEY") and os.environ.get("MAIL_FROM"):
        yield {}
        return
    resend = Resend(home.folder / "mailbox")
    async with _served(resend.app) as address:
        yield resend.settings(address)


@asynccontextmanager
async def _served(app: Starlette) -> AsyncIterator[str]:
    """The address of an app that runs in this loop."""
    door = _Door(uvicorn.Config(app, port=0, log_level="warning", lifespan="on"))
    serving = asyncio.create_task(door.serve())
    await door.opened.wait()
    try:
        yield f"http://127.0.0.1:{door.servers[0].sockets[0].getsockname()[1]}"
    finally:
        door.should_exit = True
        await serving


def _free_port(first: int) -> int:
    """The first port from `first` that nobody listens on; usually the same one each time."""
    for port in range(first, first + TRIED_PORTS):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
    sys.exit(f"No port from {first} on is free.")


class _Door(uvicorn.Server):
    """uvicorn inside our loop: signals are this program's."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.opened = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self.opened.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@asynccontextmanager
async def _gateway(home: Home, environment: dict[str, str], own: Own) -> AsyncIterator[str]:
    """The functions and their API on PORT, or on the first free port from FIRST_PORT."""
    say("Starting the functions of template.yaml …")
    chosen = os.environ.get("PORT")
    ports = [int(chosen)] if chosen else range(FIRST_PORT, FIRST_PORT + TRIED_PORTS)
    for port in ports:
        here = {"API_URL": f"http://127.0.0.1:{port}"}
        aws = LocalLambda(ROOT / "template.yaml", here | environment, home.folder / "queues", own=own)
        try:
            address = await aws.start(port)
            break
        except OSError:
            say(f"Port {port} is taken.")
    else:
        sys.exit("No port is free. Choose one with PORT=…")
    try:
        yield address
    finally:
        await aws.stop()


def _welcome(file: Path, env: dict[str, str]) -> None:
    base, key = env["OPENAI_BASE_URL"], env["OPENAI_API_KEY"]
    mailbox = env.get("GATEWAY_MAILBOX", "none here: mails are sent")
    say(f"""
Gatewayz is at {base.removesuffix("/v1")}   (Ctrl-C stops it; code is reloaded when it changes)

  key       {key}   with $100 of credit
  mailbox   {mailbox}
  settings  set -a; . {os.path.relpath(file, ROOT)}; set +a

Try it in another terminal, after reading the settings:

  curl $OPENAI_BASE_URL/chat/completions -H "Authorization: Bearer $OPENAI_API_KEY" \\
    -H "Content-Type: application/json" \\
    -d '{{"model": "sandbox/chat", "messages": [{{"role": "user", "content": "Hello"}}]}}'

  .venv/bin/python -c 'import openai
for chunk in openai.OpenAI().chat.completions.create(model="sandbox/chat", stream=True,
    messages=[{{"role": "user", "content": "Hello"}}]): print(chunk.choices[0].delta.content or "", end="", flush=True)'

  curl $OPENAI_BASE_URL/credits -H "Authorization: Bearer $OPENAI_API_KEY"
""")


if __name__ == "__main__":
    asyncio.run(main(ROOT / ".gateway"))
