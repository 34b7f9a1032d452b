"""The providers under test: each with its recorded replies, and with the faults that it can be told to have."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
import pytest

from gateway import sse
from gateway.errors import GatewayError
from gateway.inference.transcript import Transcript
from gateway.providers import ADAPTERS
from gateway.providers.sandbox import Sandbox
from gateway.settings import load
from tests.harness.upstream import Fault, Reply, Upstream, head, streamed, whole

if TYPE_CHECKING:
    from collections.abc import Callable

    from gateway.providers.base import Provider

KEY = "our-own-key"
VIRTUAL_KEY = "our-own-virtual-key"
CANARY = "CANARY"
"""Stands in everything that a recorded refusal says."""

type Kind = Literal["completion", "tools"]
type FaultName = Literal["rate-limited", "error", "hang", "stall", "cut", "malformed", "over-long", "no-usage"]

TOOL = {
    "type": "function",
    "function": {
        "name": "next_tide",
        "parameters": {
            "type": "object",
            "properties": {"port": {"type": "string"}, "hours": {"type": "integer"}},
        },
    },
}


def adapter(name: str, base_url: str, **names: str) -> Provider:
    """A provider as a deployment would have it, at this address."""
    settings = load({
        "STAGE": "dev",
        "DATABASE_URL": "postgresql://nowhere",
        "KEY_PEPPERS": "v1:a pepper for these tests",
        "PUBLIC_URL": "https://gateway.example",
        f"{name.upper()}_API_KEY": KEY,
        f"{name.upper()}_BASE_URL": base_url,
        **names,
    })  # fmt: skip
    return ADAPTERS[name](settings)


def recorded(name: str, file: str) -> bytes:
    return (Path(__file__).parent / "recorded" / name / file).read_bytes()


def request(kind: Kind = "completion", **members: Any) -> dict[str, Any]:
    """A request's body, as the gateway sends it on."""
    body = {"model": "acme/tide", "messages": [{"role": "user", "content": "When is the next tide?"}], **members}
    return body | ({"tools": [TOOL]} if kind == "tools" else {})


STREAM = request(stream=True)


def without_usage(completion: bytes) -> bytes:
    return msgspec.json.encode(
        {name: value for name, value in msgspec.json.decode(completion).items() if name != "usage"}
    )


def events(stream: bytes) -> list[bytes]:
    """A recorded stream in its events, byte for byte."""
    blank = b"\r\n\r\n" if b"\r\n" in stream else b"\n\n"
    return [block + blank for block in stream.split(blank) if block]


def _whole(completion: bytes) -> dict[FaultName, Reply]:
    half = len(completion) // 2
    start = head(content_type="application/json", content_length=str(len(completion)))
    return {
        "stall": (start, completion[:half], Fault.STALL),
        "cut": (start, completion[:half], Fault.CLOSE),
        "malformed": whole(completion[:half]),
        "no-usage": whole(without_usage(completion)),
        "over-long": (head(content_type="application/json"), *[b" " * (1 << 20)] * 40, Fault.STALL),
    }


def _streamed(stream: bytes) -> dict[FaultName, Reply]:
    pieces = events(stream)
    # the usage and [DONE] come after the finish_reason
    return {
        "stall": streamed(*pieces[:4], Fault.STALL),
        "cut": streamed(*pieces[:4], Fault.CLOSE),
        "malformed": streamed(*pieces[:4], sse.event(b'{"choices":[{"delta":')),
        "no-usage": streamed(*pieces[:-2], pieces[-1]),
        "over-long": streamed(*pieces[:4], b"data: " + b"x" * (sse.MAX_EVENT_BYTES + 1)),
    }


class Subject:
    """A provider and how to bring it to an answer or a fault; the sandbox needs no double for that."""

    def __init__(self, name: str, upstream: Upstream) -> None:
        self.name, self._upstream = name, upstream
        self.provider = Sandbox() if name == Sandbox.name else adapter(name, f"{upstream.url}/v1")

    def asked(
        self, kind: Kind = "completion", *, stream: bool = False, fault: FaultName | None = None
    ) -> dict[str, Any]:
        """The body to ask with; the answer to it is ready."""
        if self.name != Sandbox.name:
            self._upstream.will(self._reply(kind, stream=stream, fault=fault))
        model = f"sandbox/{fault or kind}"
        return request(kind, model=model, stream=True) if stream else request(kind, model=model)

    def _reply(self, kind: Kind, *, stream: bool, fault: FaultName | None) -> Reply:
        if fault == "hang":
            return (Fault.STALL,)
        if fault in ("rate-limited", "error"):
            refused = {"error": {"message": CANARY, "code": None}}
            status = 429 if fault == "rate-limited" else 500
            return whole(msgspec.json.encode(refused), status, retry_after="7")
        answer = recorded(self.name, f"{'stream' if kind == 'completion' else kind}.sse" if stream else f"{kind}.json")
        faults: Callable[[bytes], dict[FaultName, Reply]] = _streamed if stream else _whole
        if fault is not None:
            return faults(answer)[fault]
        return streamed(*events(answer)) if stream else whole(answer)


class Told:
    """What a stream told, put right as clients get it."""

    def __init__(self) -> None:
        self.transcript = Transcript(keep=True)
        self.chunks: list[dict[str, Any]] = []
        self.silences = 0

    async def hear(self, provider: Provider, body: dict[str, Any]) -> Told:
        async with aclosing(provider.stream(body)) as stream:
            async for chunk in stream:
                if chunk is None:
                    self.silences += 1
                elif self.transcript.take(chunk):
                    self.chunks.append(chunk)
        return self

    @property
    def text(self) -> str:
        return "".join(choice["delta"].get("content") or "" for chunk in self.chunks for choice in chunk["choices"])


async def refused(provider: Provider, body: dict[str, Any]) -> GatewayError:
    """The error that a request ends with, whole or streamed."""
    exchange = Told().hear(provider, body) if body.get("stream") else provider.complete(body)
    with pytest.raises(GatewayError) as caught:
        await asyncio.wait_for(exchange, 5)
    return caught.value
