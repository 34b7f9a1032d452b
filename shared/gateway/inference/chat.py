"""OpenAI's chat completions, in which the gateway speaks to providers: they are told to the client as they are."""

from __future__ import annotations

from typing import Any

import msgspec

from gateway import sse
from gateway.errors import GatewayError

_encode = msgspec.json.Encoder().encode


class Chat:
    """The dialect of POST /v1/chat/completions (https://platform.openai.com/docs/api-reference/chat)."""

    keep_alive = sse.KEEP_ALIVE
    may_keep = True

    def __init__(self, *, include_usage: bool = False) -> None:
        self._include_usage = include_usage

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]:
        return completion

    def chunk(self, chunk: dict[str, Any]) -> bytes:
        return sse.event(_encode(chunk))

    def end(self, identity: dict[str, Any], usage: dict[str, Any]) -> bytes:
        last = self.chunk({**identity, "choices": [], "usage": usage}) if self._include_usage else b""
        return last + sse.event(sse.DONE)

    def broken(self, identity: dict[str, Any], error: GatewayError) -> bytes:
        """In OpenRouter's shape."""
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
        return self.chunk({**identity, "error": error.error(), "choices": [choice]}) + sse.event(sse.DONE)

    def memory(self) -> dict[str, Any] | None:
        return None
