"""A completion, from admission to settlement: the whole story of a request, and the only one.

authorize   one database call: key, limits, offers, hold             nothing has happened if it refuses
attempt     the hold's offers in turn, until one sends a token       a refusal here gives the hold back
answer      the provider's answer, put right and with its price, in the dialect that was asked in
settle      one database call, after the last byte has left          whatever became of the answer
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Coroutine
from contextlib import aclosing, suppress
from typing import Any, Literal

import msgspec

from gateway import credits, providers, sealing, telemetry
from gateway.credits import Hold, Offer, Replay
from gateway.errors import GatewayError, InternalError, NoProviderAvailable, ProviderError, ProviderKeyRefused
from gateway.inference import replay
from gateway.inference.bill import Bill, Call
from gateway.inference.receipt import receipt
from gateway.inference.report import report
from gateway.inference.transcript import Transcript
from gateway.providers.base import FAILOVER, KEEP_ALIVE_S, Provider

STATUS_HELD_S = 10.0
"""A stream's status waits this long for the first token, so that a failure can still be a status; then it is 200."""

KEPT = ("role", "content", "tool_calls")
"""Members of a message that a session keeps."""

type Chunk = dict[str, Any]
type Outcome = Literal["completed", "cut", "cancelled"]


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


class Answer:
    """The answer to an admitted call: a `body`, or `events()`; and `close()`, always, once the last byte has left."""

    body: bytes | None = None

    def __init__(self, bill: Bill) -> None:
        self.bill = bill
        self._transcript = Transcript(keep=False)
        self._outcome: Outcome = "cancelled"
        self._whole: bytes | None = None
        self._is_settled = False
        self._message: dict[str, Any] | None = None
        """What the assistant said, where a session keeps it."""

    async def begin(self) -> None:
        """Ask the providers. Raises the refusal that the client is shown as a status."""

    def events(self) -> AsyncIterator[bytes]:
        """The stream as the client reads it: chunks, at most one error event, `[DONE]`."""
        raise NotImplementedError

    async def close(self) -> None:
        """Settle what the answer cost, or give the hold back when nothing came of it: to the end, whatever happens."""
        await _to_the_end(self._close())

    async def _close(self) -> None:
        if self._is_settled:
            return
        self._is_settled = True
        transcript = self._transcript
        if self.bill.usage is None and transcript.begun:
            self.bill.charge_transcript(transcript, transcript.seen_chunks)
        if self.bill.usage is None:
            await credits.release(self.bill.hold, self.bill.failure())
        else:
            await credits.settle(self.bill.settlement(self._outcome, transcript, self._whole, self._memory()))
        await report(self.bill, self._outcome, transcript.finish_reason)

    async def _remember(self) -> None:
        """Settle what is to be kept before the last byte leaves: who has an answer may follow it at once."""
        if self._memory() is not None:
            await _to_the_end(Answer._close(self))

    def _memory(self) -> dict[str, Any] | None:
        """What the caller asked to be kept."""
        bill, turn = self.bill, self.bill.call.turn
        memory = bill.call.dialect.memory()
        if turn is None or self._message is None or bill.offer is None or self._outcome != "completed":
            return memory
        used = {"tokens": bill.usage.completion if bill.usage else 0}
        said = [*turn.messages, {name: self._message.get(name) for name in KEPT} | used]
        kept = {"session_id": turn.session_id, "model": bill.offer.model, "messages": said}
        return {**(memory or {}), "turn": kept}

    def _failed(self, offer: Offer, error: GatewayError) -> GatewayError:
        """Note that an offer failed; what its caller is told if it was the last."""
        if offer.sealed is not None and isinstance(error, ProviderError) and error.key_refused:
            error = ProviderKeyRefused(provider=offer.provider)
        self.bill.fail(offer, error)
        telemetry.log(
            "attempt_failed", level="WARNING", metrics={"AttemptsFailed": 1}, dimensions={"Provider": offer.provider},
            provider=offer.provider, model=offer.model, code=error.code,
        )  # fmt: skip
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


class OnePiece(Answer):
    """An answer that comes and leaves in one piece."""

    async def begin(self) -> None:
        refusal: GatewayError = NoProviderAvailable()
        for offer in self.bill.hold.offers:
            try:
                found = await self._ask(_provider(offer), self._upstream_body(offer))
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
        for offer in self.bill.hold.offers:
            self.bill.offer = offer
            self._transcript = Transcript(keep=self._keeps)
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
            await asyncio.wait({self._first}, timeout=KEEP_ALIVE_S)
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


class Replayed(Answer):
    """The answer that a request with the same Idempotency-Key got before; nothing is asked and nothing is charged."""

    def __init__(self, bill: Bill, kept: Replay) -> None:
        super().__init__(bill)
        bill.id = f"gen-{kept.hold_id}"
        self._kept = msgspec.json.decode(kept.answer)
        if not bill.call.request.stream:
            told = bill.call.dialect.whole(self._kept)
            self.body = kept.answer.encode() if told is self._kept else msgspec.json.encode(told)

    async def events(self) -> AsyncIterator[bytes]:
        dialect, include_usage = self.bill.call.dialect, self.bill.call.request.include_usage
        for chunk in replay.chunks(self._kept, include_usage=include_usage):
            yield dialect.chunk(chunk)
        yield dialect.end(replay.identity(self._kept, include_usage=include_usage), self._kept["usage"])

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
