"""The one HTTP client: providers are reached through it, and the issuers of sign-in tokens.

It follows no redirect, believes no proxy variable, keeps no cookie, accepts no compressed answer (a few bytes could
become gigabytes) and goes only where a registered provider's address says: nothing a caller sends chooses a host.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol
from weakref import WeakKeyDictionary

import aiohttp
from yarl import URL

from gateway.errors import ProviderError

CONNECT_S = 10.0
NO_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S)


class Reply(Protocol):
    """A provider's answer as it arrives. `status` and `headers` (names in any case) are known, the body is read."""

    status: int
    headers: Mapping[str, str]

    async def read(self, wait: float) -> bytes | None:
        """The next bytes; b"" at the end, None when none came within `wait` seconds. Raises ProviderError when cut."""
        ...

    def close(self) -> None:
        """Stop the exchange, wherever it is; the provider sees its client leave."""
        ...


class _HttpReply:
    """A Reply over aiohttp."""

    __slots__ = ("_content", "_response", "headers", "status")

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response, self._content = response, response.content
        self.status: int = response.status
        self.headers: Mapping[str, str] = response.headers

    async def read(self, wait: float) -> bytes | None:
        try:
            async with asyncio.timeout(wait):
                return await self._content.readany()
        except TimeoutError:
            return None
        except (aiohttp.ClientError, ConnectionError, RuntimeError) as error:
            # after a broken chunk aiohttp knows no more than RuntimeError("Connection closed.")
            raise ProviderError("The provider broke off its answer.") from error

    def close(self) -> None:
        # a connection whose answer was read to its end goes back to the pool, any other is closed
        if self._content.at_eof():
            self._response.release()
        else:
            self._response.close()


_sessions: WeakKeyDictionary[asyncio.AbstractEventLoop, aiohttp.ClientSession] = WeakKeyDictionary()


def _session() -> aiohttp.ClientSession:
    """The loop's session: connections stay open for the life of the environment, and never cross loops."""
    loop = asyncio.get_running_loop()
    if (session := _sessions.get(loop)) is None:
        session = _sessions[loop] = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=300),
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            timeout=NO_TIMEOUT,
        )
    return session


async def post(url: URL, headers: Mapping[str, str], body: bytes) -> Reply:
    """POST to a provider; returns once the answer's headers are here. Raises ProviderError if it cannot be reached."""
    return await _exchange("POST", url, headers, body)


async def get(url: URL, headers: Mapping[str, str], *, within_s: float, most_bytes: int) -> tuple[int, bytes]:
    """GET something small: its status and whole body.

    Raises ProviderError if it cannot be reached, is cut or too large, or is not all here within `within_s` seconds.
    """
    try:
        async with asyncio.timeout(within_s):
            reply = await _exchange("GET", url, headers, None)
            try:
                return reply.status, await _whole(reply, within_s, most_bytes)
            finally:
                reply.close()
    except TimeoutError as error:
        raise ProviderError("The answer took too long.") from error


async def _whole(reply: Reply, wait: float, most_bytes: int) -> bytes:
    body = b""
    while (piece := await reply.read(wait)) != b"":
        if piece is None:
            raise TimeoutError
        body += piece
        if len(body) > most_bytes:
            raise ProviderError("The answer is too large.")
    return body


async def _exchange(method: str, url: URL, headers: Mapping[str, str], body: bytes | None) -> Reply:
    try:
        try:
            response = await _send(method, url, headers, body)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError, ConnectionResetError):
            # a kept connection may have died while the environment was frozen: once more, on a fresh one
            response = await _send(method, url, headers, body)
    except (aiohttp.ClientError, OSError) as error:
        raise ProviderError("The provider could not be reached.") from error
    if response.headers.get("content-encoding", "identity") != "identity":
        response.close()
        raise ProviderError("The provider answered in an encoding that was not asked for.")
    return _HttpReply(response)


async def _send(method: str, url: URL, headers: Mapping[str, str], body: bytes | None) -> aiohttp.ClientResponse:
    return await _session().request(method, url, data=body, headers=headers, allow_redirects=False)


async def close() -> None:
    """Close this loop's connections."""
    if session := _sessions.pop(asyncio.get_running_loop(), None):
        await session.close()
