"""A webhook's receiver: keeps what came, and answers what it is told to."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import MutableMapping


class Receiver:
    """A receiver at `url`: keeps what came, and answers `status` with `headers`."""

    def __init__(self) -> None:
        self.url, self.status = "", 204
        self.headers: dict[str, str] = {}
        self.came: list[tuple[str, dict[str, str], bytes]] = []

    async def __call__(self, scope: MutableMapping[str, Any], receive: Any, send: Any) -> None:
        body = b""
        while (message := await receive())["type"] == "http.request":
            body += message["body"]
            if not message.get("more_body"):
                break
        self.came.append((scope["path"], {name.decode(): value.decode() for name, value in scope["headers"]}, body))
        headers = [(name.encode(), value.encode()) for name, value in self.headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": b"thanks"})

    def ids(self) -> list[str]:
        return sorted(headers["webhook-id"] for _, headers, _ in self.came)
