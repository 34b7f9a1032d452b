"""A chat completion, from admission to settlement: the whole story of a request, and the only one.

authorize   one database call: key, limits, offers, hold             nothing has happened if it refuses
attempt     the hold's offers in turn, until one sends a token       a refusal here gives the hold back
answer      the provider's answer, put right and with its price
settle      one database call, after the last byte has left          whatever became of the answer
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, Literal

import msgspec

from gateway import credits, providers, sealing, sse, telemetry
from gateway.credits import Hold, Offer, Replay
from gateway.errors import GatewayError, InternalError, NoProviderAvailable, ProviderError, ProviderKeyRefused
from gateway.inference import replay
from gateway.inference.bill import Bill, Call
from gateway.inference.transcript import Transcript
from gateway.providers.base import FAILOVER, KEEP_ALIVE_S, Provider

STATUS_HELD_S = 10.0
"""A stream's status waits this long for the first token, so that a failure can still be a status; then it is 200."""

type Chunk = dict[str, Any]
type Outcome = Literal["completed", "cut", "cancelled"]


async def serve(call: Call) -> Answer:
    """Admit a call and bring its answer up to the first token. Raises every refusal; the answer is to be closed."""
    hold = await _admitted(call)
    if hold.replay is not None:
        return Replayed(Bill(call, hold), hold.replay)
    answer = Streamed(Bill(call, hold)) if call.request.stream else Whole(Bill(call, hold))
    try:
        await answer.begin()
    except BaseException:
        await answer.close()
        raise
    return answer


async def _admitted(call: Call) -> Hold:
    """The call's hold; one that is taken while the request is being cancelled is given back."""
    asking = asyncio.ensure_future(_authorize(call))
    try:
        await asyncio.wait({asking})
    except asyncio.CancelledError:
        await _to_the_end(_give_back(asking))
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
        providers=list(providers.available()),
        preferences=request.preferences(),
        prompt_tokens=call.bounds.prompt_tokens,
        expected_tokens=call.bounds.expected_tokens,
        max_tokens=request.asked_tokens,
        choices=request.n or 1,
        max_cost_nano=call.max_cost_nano,
        idempotency_key=call.idempotency_key,
        fingerprint=call.fingerprint,
    )


class Answer:
    """The answer to an admitted call: a `body`, or `events()`; and `close()`, always, once the last byte has left."""

    body: bytes | None = None

    def __init__(self, bill: Bill) -> None:
        self.bill = bill
        self._transcript = Transcript(keep=False)
        self._outcome: Outcome = "cancelled"
        self._whole: bytes | None = None

    async def begin(self) -> None:
        """Ask the providers. Raises the refusal that the client is shown as a status."""

    def events(self) -> AsyncIterator[bytes]:
        """The stream as the client reads it: chunks, at most one error event, `[DONE]`."""
        raise NotImplementedError

    async def close(self) -> None:
        """Settle what the answer cost, or give the hold back when nothing came of it: to the end, whatever happens."""
        await _to_the_end(self._close())

    async def _close(self) -> None:
        transcript = self._transcript
        if self.bill.usage is None and transcript.begun:
            self.bill.charge(transcript.usage, transcript.seen_bytes, transcript.seen_chunks)
        if self.bill.usage is None:
            await credits.release(self.bill.hold, self.bill.failure())
        else:
            await credits.settle(self.bill.settlement(self._outcome, transcript, self._whole))

    def _failed(self, offer: Offer, error: GatewayError) -> GatewayError:
        """Note that an offer failed; what its caller is told if it was the last."""
        if offer.sealed is not None and isinstance(error, ProviderError) and error.key_refused:
            error = ProviderKeyRefused(provider=offer.provider)
        self.bill.fail(offer, error)
        telemetry.log("attempt_failed", level="WARNING", provider=offer.provider, model=offer.model, code=error.code)
        return error

    def _upstream_body(self, offer: Offer) -> dict[str, Any]:
        """The caller's body for one offer: its own name of the model, usage always, and the balance's ceiling."""
        call, ceiling = self.bill.call, self.bill.hold.max_tokens
        body = {**call.body, "model": offer.upstream_id}
        if call.request.stream:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        if ceiling is not None:
            asked = [name for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
            body |= dict.fromkeys(asked or ["max_tokens"], ceiling)
        return body


class Whole(Answer):
    """An answer in one piece."""

    async def begin(self) -> None:
        refusal: GatewayError = NoProviderAvailable()
        for offer in self.bill.hold.offers:
            try:
                completion = await _provider(offer).complete(self._upstream_body(offer))
            except FAILOVER as failed:
                refusal = self._failed(offer, failed)
            else:
                self.bill.offer = offer
                return self._finish(completion)
        raise refusal

    def _finish(self, completion: Chunk) -> None:
        bill, reported = self.bill, completion.get("usage")
        bill.first_byte()
        self._transcript.take_whole(completion)
        bill.charge(self._transcript.usage, self._transcript.seen_bytes, 1)
        completion |= bill.identity("chat.completion", completion.get("created"))
        completion["usage"] = bill.priced_usage(reported)
        completion["gateway_usage"] = bill.gateway_usage()
        self.body = self._whole = msgspec.json.encode(completion)
        self._outcome = "completed"


class Streamed(Answer):
    """An answer in chunks, sent on as they come."""

    def __init__(self, bill: Bill) -> None:
        super().__init__(bill)
        self._chunks = self._attempts()
        self._first: asyncio.Future[Chunk | None] | None = None

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
        for offer in self.bill.hold.offers:
            self.bill.offer = offer
            self._transcript = Transcript(keep=self.bill.call.idempotency_key is not None)
            try:
                async with aclosing(self._attempt(offer)) as chunks:
                    async for chunk in chunks:
                        yield chunk
            except FAILOVER as failed:
                refusal = self._failed(offer, failed)
                if self._transcript.begun:
                    break
            else:
                return
        raise refusal

    async def _attempt(self, offer: Offer) -> AsyncGenerator[Chunk | None]:
        """One provider's chunks; those before its first token wait for it: until then another can still be asked."""
        transcript = self._transcript
        early: list[Chunk] | None = []
        async with aclosing(_provider(offer).stream(self._upstream_body(offer))) as stream:
            async for chunk in stream:
                if chunk is None:
                    yield None
                elif not transcript.take(chunk):
                    continue
                elif early is None:
                    yield chunk
                elif transcript.begun:
                    self.bill.first_byte()
                    for waiting in (*early, chunk):
                        yield waiting
                    early = None
                else:
                    early.append(chunk)
        if not transcript.begun:
            raise ProviderError("The provider sent an empty answer.")

    async def events(self) -> AsyncIterator[bytes]:
        identity: Chunk = {}
        encode = msgspec.json.Encoder().encode
        try:
            async for chunk in self._heard():
                if chunk is None:
                    yield sse.KEEP_ALIVE
                    continue
                identity = identity or self._identity()
                yield sse.event(encode({**chunk, **identity}))
            for chunk in self._last(identity):
                yield sse.event(encode(chunk))
        except GatewayError as error:
            yield sse.event(encode(self._broken(error)))
        except Exception as error:  # noqa: BLE001 - the status has left: nobody above can tell the client any more
            telemetry.failure("stream_failed", error, generation=self.bill.id)
            yield sse.event(encode(self._broken(InternalError())))
        yield sse.event(sse.DONE)

    async def _heard(self) -> AsyncIterator[Chunk | None]:
        """The chunks, the first of which is already on its way."""
        assert self._first is not None, "begun before it is read"
        while not self._first.done():
            yield None
            await asyncio.wait({self._first}, timeout=KEEP_ALIVE_S)
        yield self._first.result()
        async for chunk in self._chunks:
            yield chunk

    def _identity(self) -> Chunk:
        """What every chunk has; known with the first token."""
        usage = {"usage": None} if self.bill.call.request.include_usage else {}
        return {**self.bill.identity("chat.completion.chunk"), **usage}

    def _last(self, identity: Chunk) -> list[Chunk]:
        """The end of a whole answer: a finish_reason that the provider left out, and the usage if it was asked for."""
        bill, transcript = self.bill, self._transcript
        chunks: list[Chunk] = []
        for index in transcript.unfinished():
            choice = {"index": index, "delta": {}, "finish_reason": "stop"}
            chunks.append({**identity, "choices": [choice]})
        bill.charge(transcript.usage, transcript.seen_bytes, transcript.seen_chunks)
        usage = bill.priced_usage()
        if bill.call.request.include_usage:
            chunks.append({**identity, "choices": [], "usage": usage})
        if bill.call.idempotency_key is not None:
            whole = {**bill.identity("chat.completion"), "choices": transcript.choices(), "usage": usage}
            self._whole = msgspec.json.encode(whole)
        self._outcome = "completed"
        return chunks

    def _broken(self, error: GatewayError) -> Chunk:
        """The event that ends a stream which failed on its way, in OpenRouter's shape."""
        self._outcome = "cut"
        choice = {"index": 0, "delta": {"content": ""}, "finish_reason": "error"}
        return {**self.bill.identity("chat.completion.chunk"), "error": error.error(), "choices": [choice]}


class Replayed(Answer):
    """The answer that a request with the same Idempotency-Key got before; nothing is asked and nothing is charged."""

    def __init__(self, bill: Bill, kept: Replay) -> None:
        super().__init__(bill)
        bill.id = f"gen-{kept.hold_id}"
        self._kept = kept.answer.encode()
        if not bill.call.request.stream:
            self.body = self._kept

    async def events(self) -> AsyncIterator[bytes]:
        for chunk in replay.chunks(msgspec.json.decode(self._kept), include_usage=self.bill.call.request.include_usage):
            yield sse.event(msgspec.json.encode(chunk))
        yield sse.event(sse.DONE)

    async def _close(self) -> None:
        """There is nothing to settle."""


async def _to_the_end(work: Coroutine[Any, Any, None]) -> None:
    """Cancellation waits until the work is done: an unshielded settlement was lost 80 times of 80 when clients left."""
    task = asyncio.ensure_future(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()


def _provider(offer: Offer) -> Provider:
    """Who answers for an offer: asked with the deployment's key, or with the user's own."""
    if offer.sealed is None:
        return providers.available()[offer.provider]
    return providers.of_user(offer.provider, sealing.unseal(offer.sealed))
