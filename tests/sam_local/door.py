"""A way from containers to a port of this machine that listens on loopback alone."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.sam_local.engine import Engine


@asynccontextmanager
async def opened(engine: Engine, port: int) -> AsyncIterator[tuple[str, int]]:
    """Where containers reach this port. Docker Desktop leads its own name for this machine to loopback; on Linux there
    is an address that only this machine and its containers have.
    """
    if sys.platform != "linux":
        yield "host.docker.internal", port
        return

    async def pass_on(inner: asyncio.StreamReader, outer: asyncio.StreamWriter) -> None:
        other, further = await asyncio.open_connection("127.0.0.1", port)
        await asyncio.gather(_copy(inner, further), _copy(other, outer))

    server = await asyncio.start_server(pass_on, engine.gateway, 0)
    try:
        yield engine.gateway, server.sockets[0].getsockname()[1]
    finally:
        server.close()


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while piece := await source.read(65_536):
            target.write(piece)
            await target.drain()
    target.close()
