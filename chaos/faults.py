"""What goes wrong around a gateway, one after the other, while clients go on asking."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
from aiohttp import web

from chaos.traffic import Tally, message

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from chaos.stand import Stand

type Fault = Callable[[Stand, Scale], Awaitable[None]]

ENDED = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'gateway'"
SILENT = "127.0.0.77"
"""Here a name server takes questions and never answers."""
SLOW_WEBHOOK_S = 8
BALLOON_STEP = 1 << 20
SMALL_BUFFER = 4096


@dataclass(frozen=True, slots=True)
class Scale:
    """How much of each fault there is."""

    storm: int
    """Completions at once."""
    times: int
    """How often a process is killed, the database is stopped, or connections are ended."""
    readers: int
    """Clients that stop reading; webhooks that are slow or whose names are never found."""
    seconds: float
    """How long a fault lasts that lasts."""


class LeftOut(Exception):
    """A fault that this machine cannot have; the text says why."""


async def storms(stand: Stand, scale: Scale) -> None:
    """Many completions at once."""
    for _ in range(scale.times):
        await stand.traffic.storm(scale.storm)


async def kills(stand: Stand, scale: Scale) -> None:
    """The gateway's process is killed among its requests, and started anew."""
    for _ in range(scale.times):
        await asyncio.sleep(scale.seconds / scale.times)
        stand.gateway.process.send_signal(signal.SIGKILL)
        stand.gateway.process.wait()
        stand.start_gateway()
        await stand.healthy()


async def database_stops(stand: Stand, scale: Scale) -> None:
    """The database ends at once, and is started anew a while later."""
    for _ in range(scale.times):
        await asyncio.to_thread(stand.stop_postgres)
        await asyncio.sleep(scale.seconds / scale.times)
        await asyncio.to_thread(stand.server.start)
        await stand.healthy()


async def connections_end(stand: Stand, scale: Scale) -> None:
    """The server ends every connection of the gateway's, again and again."""
    for _ in range(scale.times * 5):
        await stand.query(ENDED)
        await asyncio.sleep(scale.seconds / scale.times / 5)


async def disk_full(stand: Stand, scale: Scale) -> None:
    """The database's disk fills up, and is emptied again."""
    if not stand.has_small_disk:
        raise LeftOut("a small disk needs root, who may mount one")
    balloon = stand.folder / "disk" / "balloon"
    await asyncio.to_thread(_fill, balloon)
    await asyncio.sleep(scale.seconds)
    balloon.unlink()
    try:
        await stand.query("select 1")
    except (OSError, aiohttp.ClientError):
        # a server that could not write its log ends, and its operator starts it
        await asyncio.to_thread(stand.server.stop)
        await asyncio.to_thread(stand.server.start)


def _fill(balloon: Path) -> None:
    with contextlib.suppress(OSError), balloon.open("wb", buffering=0) as file:
        while shutil.disk_usage(balloon.parent).free:
            file.write(bytes(BALLOON_STEP))


async def silent_resolver(stand: Stand, scale: Scale) -> None:
    """Names of webhooks are asked of a name server that never answers."""
    with contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_DGRAM)) as server:
        try:
            server.bind((SILENT, 53))
        except OSError as error:
            raise LeftOut(f"a name server on port 53: {error}") from error
        await stand.ask_names_of(SILENT)
        stand.traffic.tally = Tally()  # the restart is no part of this
        async with stand.traffic.session() as session:
            asked = [_hook(stand, session, n, f"https://{n}.silent.example/") for n in range(scale.readers)]
            async with asyncio.TaskGroup() as group:
                waiting = [group.create_task(each) for each in asked]
                await asyncio.sleep(scale.seconds)
                for task in waiting:
                    task.cancel()


async def slow_readers(stand: Stand, scale: Scale) -> None:
    """Clients ask for long streams and stop reading them."""
    async with contextlib.AsyncExitStack() as stack:
        for number in range(scale.readers):
            await stack.enter_async_context(_stalled(stand, number))
        await asyncio.sleep(scale.seconds)


async def slow_webhooks(stand: Stand, scale: Scale) -> None:
    """Receivers take their time; the one that is prompt belongs to the first user."""
    async with _receivers() as port, stand.traffic.session() as session:
        await _hook(stand, session, 0, f"http://127.0.0.1:{port}/prompt")
        for number in range(scale.readers):
            await _hook(stand, session, 1 + number, f"http://127.0.0.1:{port}/slow")
        for number in range(scale.readers + 1):
            await _post(stand, session, number, "/user/api-keys", {"name": f"chaos {number}"})
        await asyncio.sleep(scale.seconds)


async def _hook(stand: Stand, session: aiohttp.ClientSession, number: int, url: str) -> None:
    await _post(stand, session, number, "/user/webhooks", {"url": url, "events": ["key.created"]})


async def _post(stand: Stand, session: aiohttp.ClientSession, number: int, path: str, body: object) -> None:
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with session.post(path, json=body, headers=stand.traffic.headers(number)) as response:
            await response.read()


@contextlib.asynccontextmanager
async def _stalled(stand: Stand, number: int) -> AsyncIterator[None]:
    """A stream that nobody reads: its socket's buffer is small, so that the gateway has to wait."""
    connection = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    connection.setblocking(False)  # noqa: FBT003 - socket's own
    await asyncio.get_running_loop().sock_connect(connection, ("127.0.0.1", stand.port))
    _, writer = await asyncio.open_connection(sock=connection, limit=SMALL_BUFFER)
    writer.transport.pause_reading()  # type: ignore[attr-defined]
    asked = {"model": "bench/model", "max_tokens": 4096, "stream": True, "messages": message("n=5000;d=100")}
    body = json.dumps(asked).encode()
    lines = [
        "POST /v1/chat/completions HTTP/1.1", "Host: gateway", "Content-Type: application/json",
        f"Authorization: {stand.traffic.headers(number)['Authorization']}", f"Content-Length: {len(body)}",
    ]  # fmt: skip
    writer.write("\r\n".join([*lines, "", ""]).encode() + body)
    try:
        yield
    finally:
        writer.transport.abort()


@contextlib.asynccontextmanager
async def _receivers() -> AsyncIterator[int]:
    """The port of a server whose path /slow answers late."""

    async def answer(request: web.Request) -> web.Response:
        if request.path == "/slow":
            await asyncio.sleep(SLOW_WEBHOOK_S)
        return web.Response()

    app = web.Application()
    app.router.add_post("/{path}", answer)
    runner = web.AppRunner(app, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        port: int = runner.addresses[0][1]
        yield port
    finally:
        await runner.cleanup()


FAULTS: dict[str, Fault] = {
    "storms of completions": storms,
    "the gateway is killed": kills,
    "the database stops": database_stops,
    "connections are ended": connections_end,
    "the disk is full": disk_full,
    "no name is found": silent_resolver,
    "readers stop reading": slow_readers,
    "webhooks are slow": slow_webhooks,
}
