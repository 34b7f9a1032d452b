"""A completion, from admission to settlement: the whole story of a request, and the only one.

authorize   one database call: key, limits, offers, hold             nothing has happened if it refuses
attempt     the hold's offers in turn, until one sends a token       a refusal here gives the hold back
answer      the provider's answer, put right and with its price, in the dialect that was asked in
settle      one database call, after the last byte has left          whatever became of the answer
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, suppress
from typing import Any

import msgspec

from gateway import credits, providers, sealing, telemetry
from gateway.credits import Hold, Offer
from gateway.errors import GatewayError, InternalError, NoProviderAvailable, ProviderError, ProviderTimeout
from gateway.inference.answer import Answer, to_the_end
from gateway.inference.bill import Bill, Call
from gateway.inference.receipt import receipt
from gateway.inference.replayed import Replayed
from gateway.inference.transcript import Transcript
from gateway.providers import base
from gateway.providers.base import FAILOVER, Provider

STATUS_HELD_S = 10.0
"""A stream's status waits this long for the first token, so that a failure can still be a status; then it is 200."""

MOST_EARLY = 100
MOST_EARLY_BYTES = 1 << 20
"""Chunks before the first token that are kept for the client; what is above is dropped, as it says nothing."""

type Chunk = dict[str, Any]


async def serve(call: Call) -> Answer:
    """Admit a call and bring its answer up to the first token. Raises every refusal; the answer is to be closed."""
    return await admit(call, Streamed if call.request.stream else Whole)


async def admit(call: Call, kind: type[Answer]) -> Answer:
    """As serve, for an answer of this kind."""
    hold = await _admitted(call)
    call.dialect.may_keep = hold.retention == "full"
    if hold.replay is not None:
        return Replayed(Bill(call, hold), hold.replay)
    answer = kind(Bill(call, hold))
    try:
        await answer.begin()
    except BaseException as refusal:
        await answer.close()
        if isinstance(refusal, GatewayError):
            refusal.receipt = receipt(answer.bill)
        raise
    return answer


async def _admitted(call: Call) -> Hold:
    """The call's hold; one that is taken while the request is being cancelled is given back."""
    asking = asyncio.ensure_future(_authorize(call))
    try:
        await asyncio.wait({asking})
    except asyncio.CancelledError:
        await to_the_end(_give_back(asking))
        raise
    return asking.result()


async def _give_back(asking: asyncio.Future[Hold]) -> None:
    with suppress(GatewayError):  # refused: nothing is held
        hold = await asking
        if hold.replay is None:
            await credits.release(hold)


async def _authorize(call: Call) -> Hold:
    request = call.request
    return await credits.authorize(
        hold_id=str(uuid.uuid4()),
        **call.key.credentials(),
        ip=call.ip,
        referer=call.referer,
        models=request.wanted_models,
        providers=providers.on_sale(),
        preferences=request.preferences(),
        prompt_tokens=call.bounds.prompt_tokens,
        expected_tokens=call.bounds.expected_tokens,
        max_tokens=request.asked_tokens,
        choices=request.choices,
        max_cost_nano=call.max_cost_nano,
        idempotency_key=call.idempotency_key,
        fingerprint=call.fingerprint,
        kind=request.kind,
        image=request.image,
    )


class OnePiece(Answer):
    """An answer that comes and leaves in one piece."""

    async def begin(self) -> None:
        refusal: GatewayError = NoProviderAvailable()
        deadline = asyncio.get_running_loop().time() + base.TOTAL_S
        for offer in self.bill.hold.offers:
            try:
                provider = _provider(offer)
                async with asyncio.timeout_at(deadline):
                    found = await self._ask(provider, self.bill.upstream_body(offer, provider))
            except TimeoutError:
                raise self._failed(offer, ProviderTimeout()) from None
            except FAILOVER as failed:
                refusal = self._failed(offer, failed)
            else:
                self.bill.offer = offer
                self.bill.first_byte()
                self._finish(found)
                return await self._remember()
        raise refusal

    async def _ask(self, provider: Provider, body: dict[str, Any]) -> dict[str, Any]:
        """What a provider answers. Raises FAILOVER errors and InvalidRequest."""
        raise NotImplementedError

    def _finish(self, found: dict[str, Any]) -> None:
        """Charge for it and tell it."""
        raise NotImplementedError

    def _tell(self, answer: dict[str, Any]) -> None:
        told = self.bill.call.dialect.whole(answer)
        self.body = self._whole = msgspec.json.encode(told)
        if told is not answer and self.bill.call.idempotency_key is not None:
            self._whole = msgspec.json.encode(answer)
        self._outcome = "completed"


class Whole(OnePiece):
    """A completion in one piece."""

    async def _ask(self, provider: Provider, body: dict[str, Any]) -> Chunk:
        return await provider.complete(body)

    def _finish(self, found: Chunk) -> None:
        bill, reported = self.bill, found.get("usage")
        self._transcript.take_whole(found)
        bill.charge_transcript(self._transcript, 1)
        found |= bill.identity("chat.completion", found.get("created"))
        found["usage"] = bill.priced_usage(reported)
        found["gateway_usage"] = bill.gateway_usage()
        self._message = found["choices"][0]["message"]
        self._tell(found)


class _Early:
    """Chunks that wait for the first token."""

    def __init__(self) -> None:
        self.waits = True
        self._chunks: list[Chunk] = []
        self._bytes = 0

    def add(self, chunk: Chunk) -> None:
        """Keep a chunk for the client, as far as there is room for it."""
        if not self.waits or not chunk.get("choices") or len(self._chunks) >= MOST_EARLY:
            return
        self._bytes += len(msgspec.json.encode(chunk))
        if self._bytes <= MOST_EARLY_BYTES:
            self._chunks.append(chunk)

    def end(self) -> list[Chunk]:
        """What waited, in its order."""
        self.waits = False
        waited, self._chunks = self._chunks, []
        return waited


class Streamed(Answer):
    """An answer in chunks, sent on as they come."""

    def __init__(self, bill: Bill) -> None:
        super().__init__(bill)
        self._chunks = self._attempts()
        self._first: asyncio.Future[Chunk | None] | None = None
        self._keeps = bill.call.idempotency_key is not None or bill.call.turn is not None

    async def begin(self) -> None:
        self._first = asyncio.ensure_future(anext(self._chunks))
        done, _ = await asyncio.wait({self._first}, timeout=STATUS_HELD_S)
        if done:
            self._first.result()

    async def _close(self) -> None:
        if self._first is not None and not self._first.done():
            self._first.cancel()
            await asyncio.wait({self._first})
        await self._chunks.aclose()
        await super()._close()

    async def _attempts(self) -> AsyncGenerator[Chunk | None]:
        """The client's chunks, from the first offer that sends a token; None for silence. Raises the last refusal."""
        refusal: GatewayError = NoProviderAvailable()
        deadline = time.monotonic() + base.TOTAL_S
        for offer in self.bill.hold.offers:
            if time.monotonic() >= deadline:
                break
            self.bill.offer = offer
            self._transcript = Transcript(keep=self._keeps)
            try:
                async with aclosing(self._attempt(offer, deadline)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except FAILOVER as failed:
                refusal = self._failed(offer, failed)
                if self._transcript.begun:
                    break
            else:
                return
        raise refusal

    async def _attempt(self, offer: Offer, deadline: float) -> AsyncGenerator[Chunk | None]:
        """One provider's chunks; those before its first token wait for it: until then another can still be asked."""
        transcript, provider = self._transcript, _provider(offer)
        early = _Early()
        silent_since = time.monotonic()
        async with aclosing(provider.stream(self.bill.upstream_body(offer, provider), deadline)) as stream:
            async for chunk in stream:
                if chunk is None:
                    yield None
                elif transcript.take(chunk) and not early.waits:
                    yield chunk
                elif early.waits and transcript.begun:
                    self.bill.first_byte()
                    for waiting in (*early.end(), chunk):
                        yield waiting
                else:
                    # nothing is sent on, so this is silence, too, and a long one may follow it
                    early.add(chunk)
                    if time.monotonic() - silent_since < base.KEEP_ALIVE_S / 3:
                        continue
                    yield None
                silent_since = time.monotonic()
        if not transcript.begun:
            raise ProviderError("The provider sent an empty answer.")

    async def events(self) -> AsyncIterator[bytes]:
        identity: Chunk = {}
        dialect = self.bill.call.dialect
        try:
            async for chunk in self._heard():
                if chunk is None:
                    yield dialect.keep_alive
                    continue
                identity = identity or self._identity()
                if told := dialect.chunk({**chunk, **identity}):
                    yield told
            told = self._end(identity)
            await self._remember()
            yield told
        except GatewayError as error:
            yield self._broken(error)
        except Exception as error:  # noqa: BLE001 - the status has left: nobody above can tell the client any more
            telemetry.failure("stream_failed", error, generation=self.bill.id)
            yield self._broken(InternalError())

    async def _heard(self) -> AsyncIterator[Chunk | None]:
        """The chunks, the first of which is already on its way."""
        assert self._first is not None, "begun before it is read"
        while not self._first.done():
            yield None
            await asyncio.wait({self._first}, timeout=base.KEEP_ALIVE_S)
        yield self._first.result()
        async for chunk in self._chunks:
            yield chunk

    def _identity(self) -> Chunk:
        """What every chunk has; known with the first token."""
        usage = {"usage": None} if self.bill.call.request.include_usage else {}
        return {**self.bill.identity("chat.completion.chunk"), **usage}

    def _end(self, identity: Chunk) -> bytes:
        """The end of a whole answer: a finish_reason that the provider left out, and the usage."""
        bill, transcript, dialect = self.bill, self._transcript, self.bill.call.dialect
        missing = [{"index": index, "delta": {}, "finish_reason": "stop"} for index in transcript.unfinished()]
        last = [dialect.chunk({**identity, "choices": [choice]}) for choice in missing]
        bill.charge_transcript(transcript, transcript.seen_chunks)
        usage = bill.priced_usage()
        told = b"".join(last) + dialect.end(identity, usage)
        if self._keeps:
            choices = transcript.choices()
            self._message = choices[0]["message"] if choices else None
            self._whole = msgspec.json.encode({**bill.identity("chat.completion"), "choices": choices, "usage": usage})
        self._outcome = "completed"
        return told

    def _broken(self, error: GatewayError) -> bytes:
        """What ends a stream that failed on its way."""
        self._outcome = "cut"
        return self.bill.call.dialect.broken(self.bill.identity("chat.completion.chunk"), error)


def _provider(offer: Offer) -> Provider:
    """Who answers for an offer: asked with the deployment's key, or with the user's own."""
    if offer.sealed is None:
        return providers.available()[offer.provider]
    return providers.of_user(offer.provider, sealing.unseal(offer.sealed))
