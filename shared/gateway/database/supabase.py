"""The supabase transport: remote procedure calls over HTTPS, through the `supabase` client. It holds no
connection of the database, so any number of environments may use it at once."""

from __future__ import annotations

from typing import Any

import httpx
import msgspec
from postgrest import APIError

from gateway.database import Failure
from supabase import AsyncClient, AsyncClientOptions

CONNECT_TIMEOUT_S = 5
CALL_TIMEOUT_S = 10
SQLSTATE_LETTERS = 5
KEEP_ALIVE_S = 55
"""Less than the 60 s after which common proxies hang up."""


class Supabase:
    """One keep-alive client of one project, for the running event loop."""

    def __init__(self, url: str, key: str) -> None:
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(CALL_TIMEOUT_S, connect=CONNECT_TIMEOUT_S, pool=CONNECT_TIMEOUT_S),
            limits=httpx.Limits(keepalive_expiry=KEEP_ALIVE_S),
            event_hooks={"response": [_refuse_foreign]},
            trust_env=False,
        )
        options = AsyncClientOptions(
            schema="api", httpx_client=self._http, auto_refresh_token=False, persist_session=False
        )
        self._client = AsyncClient(url, key, options)

    async def call(self, name: str, arguments: dict[str, Any]) -> Any:
        """Sends one call once and returns its decoded result. Raises Failure."""
        if not name.isidentifier():
            raise ValueError(f"not an SQL name: {name!r}")
        try:
            # encoded as the other transport does, so that what one of them takes the other takes, too
            own = msgspec.json.decode(msgspec.json.encode(arguments))
            answer = await self._client.rpc(name, own).execute()
        except APIError as error:
            raise _failure(error) from error
        except httpx.HTTPError as error:
            raise _lost(error) from error
        return answer.data

    async def close(self) -> None:
        """Closes the connections, with calls that still run."""
        await self._http.aclose()


async def _refuse_foreign(response: httpx.Response) -> None:
    """Refuses what PostgREST did not write: a proxy's page, whatever its status says."""
    if not response.headers.get("content-type", "").startswith("application/json"):
        raise Failure("08001", f"an answer that is no JSON, with status {response.status_code}")


def _failure(error: APIError) -> Failure:
    """PostgREST's code or SQLSTATE. The client puts the HTTP status, which is shorter, where there is none."""
    if error.code is None or len(error.code) < SQLSTATE_LETTERS:
        return Failure("08001", "an error that is not PostgREST's")
    return Failure(error.code, error.message or "", error.details)


def _lost(error: httpx.HTTPError) -> Failure:
    if isinstance(error, httpx.ReadTimeout | httpx.WriteTimeout):
        return Failure("57014", "timed out")
    if isinstance(error, httpx.ReadError | httpx.WriteError | httpx.RemoteProtocolError):
        return Failure("08006", "connection lost")
    return Failure("08001", "no connection")
