"""A completion's bill: who served it, what it used, what that costs, and the settlement that books it.

What the client is told (cost, balance after) is computed here from the hold and the usage, and is what is booked.
"""

from __future__ import annotations

import time
from typing import Any, Protocol

import msgspec

from gateway import money, telemetry
from gateway.credits import Hold, Offer
from gateway.errors import GatewayError
from gateway.inference import metering
from gateway.inference.chat import Chat
from gateway.inference.metering import Bounds, Usage
from gateway.inference.requests import CompletionRequest, ModelRequest
from gateway.inference.transcript import Transcript
from gateway.keys import Key
from gateway.providers.base import CEILINGS, Provider
from gateway.settlements import MAX_ANSWER_BYTES, TOO_LARGE, Settlement

BUDGETS = (("reasoning", "max_tokens"), ("thinking", "budget_tokens"))
"""Members that say how many of a completion's tokens may be thoughts."""
LEAST_ROOM = 16
"""Tokens; with less room than that the prompt does not fit, which its provider says better than a cut answer."""


class Dialect(Protocol):
    """How an answer is told to the client: in the terms of the route that was asked. Inside it is a chat completion.

    One object tells one answer, `whole` or as the events of a stream: each chunk's, and those of the end or of the
    failure that is the end.
    """

    keep_alive: bytes
    may_keep: bool
    """Whether the key lets be kept what is said; known when the call is admitted."""

    def whole(self, completion: dict[str, Any]) -> dict[str, Any]: ...
    def chunk(self, chunk: dict[str, Any]) -> bytes: ...
    def end(self, identity: dict[str, Any], usage: dict[str, Any]) -> bytes: ...
    def broken(self, identity: dict[str, Any], error: GatewayError) -> bytes: ...
    def memory(self) -> dict[str, Any] | None:
        """What is to be kept of the answer, once it has ended (api.settle)."""


class Turn(msgspec.Struct, frozen=True):
    """What a completion adds to a chat session: these messages, and the answer."""

    session_id: int
    messages: list[dict[str, Any]]


class Call(msgspec.Struct, frozen=True):
    """One request as it was asked for."""

    key: Key
    ip: str | None
    referer: str | None
    request: ModelRequest
    body: dict[str, Any]
    """What the caller sent, less what was for the gateway: the provider's request but for model and options."""
    bounds: Bounds
    max_cost_nano: int | None = None
    idempotency_key: str | None = None
    fingerprint: str | None = None
    dialect: Dialect = msgspec.field(default_factory=Chat)
    turn: Turn | None = None


class Bill:
    """Of one admitted call."""

    def __init__(self, call: Call, hold: Hold) -> None:
        self.call, self.hold = call, hold
        self.id = f"gen-{hold.hold_id}"
        self.offer: Offer | None = None
        self.usage: Usage | None = None
        self.cost_nano = 0
        self.byok_nano = 0
        """What the user's own key has saved: the cost at list prices."""
        self.attempts: list[dict[str, Any]] = []
        """Offers that failed before, as usage records have them."""
        self._failed: Offer | None = None
        self.began_ns = time.time_ns()
        self._started = time.monotonic()
        self._first_byte: float | None = None

    def identity(self, kind: str, created: Any = None) -> dict[str, Any]:
        """The members that every object of this answer has."""
        served = self.served
        return {
            "id": self.id,
            "object": kind,
            "created": created if isinstance(created, int) else int(time.time()),
            "model": served.model if served else self.call.request.model,
            "provider": served.provider if served else None,
        }

    @property
    def served(self) -> Offer | None:
        """The offer that answers: from its first token on, because until then another one may be tried."""
        return None if self._first_byte is None else self.offer

    @property
    def first_byte_ms(self) -> int | None:
        """From admission to the first token."""
        return None if self._first_byte is None else round(1000 * (self._first_byte - self._started))

    def first_byte(self) -> None:
        """The first token is here."""
        self._first_byte = time.monotonic()

    def ceiling(self, offer: Offer) -> int:
        """Completion tokens, per choice: at most what the hold assumed for one of its offers (api.fit)."""
        asked = self.call.request.asked_tokens
        limits = (asked, self.hold.max_tokens, offer.max_output_tokens, None if asked else self._room(offer))
        return min(limit for limit in limits if limit is not None)

    def _room(self, offer: Offer) -> int | None:
        """Tokens that an answer without a ceiling of its caller's may have beside its prompt. Servers refuse a ceiling
        that leaves the prompt no room (vLLM: prompt + max_tokens above the context is a 400). Where the prompt's bound
        fills the context, half of what its estimate leaves, since it may be too low; None where that leaves nothing.
        """
        if offer.context_length is None:
            return None
        bounds = self.call.bounds
        room = max(
            offer.context_length - bounds.prompt_tokens, (offer.context_length - bounds.likely_prompt_tokens) // 2
        )
        return room if room >= LEAST_ROOM else None

    def upstream_body(self, offer: Offer, provider: Provider) -> dict[str, Any]:
        """The caller's body for one offer: its own name of the model, usage always, and the ceiling that was held."""
        request, body = self.call.request, {**self.call.body, "model": offer.upstream_id}
        if request.stream:
            body["stream_options"] = {**(body.get("stream_options") or {}), "include_usage": True}
        if not isinstance(request, CompletionRequest):
            return body
        ceiling = self.ceiling(offer)
        for name in CEILINGS:
            body.pop(name, None)
        for name, member in BUDGETS:
            if isinstance(budget := body.get(name), dict) and (budget.get(member) or 0) > ceiling:
                body[name] = {**budget, member: ceiling}
        return {**body, provider.ceiling: ceiling}

    def charge(self, usage: Usage) -> None:
        """Fix what was used; an estimate never costs more than was held."""
        assert self.offer is not None, "nothing was used before an offer was tried"
        self.usage = usage
        listed = metering.cost_nano(usage, self.offer)
        if self.offer.sealed is not None:
            self.byok_nano = listed
        else:
            self.cost_nano = min(listed, self.hold.bound_nano) if usage.is_estimated else listed

    def charge_transcript(self, transcript: Transcript, chunks: int, *, has_left: bool = False) -> None:
        """Fix what a completion used: what the provider reported, as far as it can be; else an estimate from what was
        seen. Whoever `has_left` chose the moment, so the estimate has all of the prompt that can have been.
        """
        bounds, usage = self.call.bounds, transcript.usage
        if usage is None or (transcript.seen_bytes > 0 and 0 in (usage.prompt, usage.completion)):
            usage = metering.estimate(bounds, transcript.seen_bytes, chunks)
            if has_left:
                usage = msgspec.structs.replace(usage, prompt=bounds.prompt_tokens)
        assert self.offer is not None, "nothing was used before an offer was tried"
        self.charge(self._believed(usage, self.ceiling(self.offer) * self.call.request.choices, self.offer))

    def charge_prompt(self, usage: Usage | None) -> None:
        """Fix what embeddings used, as charge_transcript does: there is nothing but a prompt."""
        assert self.offer is not None, "nothing was used before an offer was tried"
        if usage is None or usage.prompt == 0:
            usage = metering.estimate(self.call.bounds, 0, 0)
        self.charge(self._believed(usage, 0, self.offer))

    def _believed(self, usage: Usage, most_completion: int, offer: Offer) -> Usage:
        """A usage as far as it can be true of what was sent and asked for; where it cannot, the bound in its place."""
        believed = metering.believed(usage, self.call.bounds, most_completion)
        if believed != usage and not usage.is_estimated:
            telemetry.log(
                "usage_not_believed", level="ERROR", metrics={"UsageNotBelieved": 1},
                provider=offer.provider, model=offer.model, generation=self.id,
                reported=[usage.prompt, usage.completion], charged=[believed.prompt, believed.completion],
            )  # fmt: skip
        return believed

    def fail(self, offer: Offer, error: GatewayError) -> None:
        """Note that an offer failed."""
        self._failed = offer
        attempt = {"model": offer.model, "provider": offer.provider, "error": error.code}
        self.attempts.append(attempt if offer.sealed is None else attempt | {"is_byok": True})

    def priced_usage(self, reported: Any = None) -> dict[str, Any]:
        """The answer's `usage`: the provider's own details with our tokens and our price."""
        assert self.usage is not None, "charged before it is shown"
        usage = dict(reported) if isinstance(reported, dict) else self.usage.details()
        return usage | {
            "prompt_tokens": self.usage.prompt,
            "completion_tokens": self.usage.completion,
            "total_tokens": self.usage.prompt + self.usage.completion,
            "cost": money.number(self.cost_nano),
            "cost_details": {"upstream_inference_cost": None},
        }

    def gateway_usage(self) -> dict[str, Any]:
        """The answer's `gateway_usage`, amounts in dollars."""
        assert self.usage is not None, "charged before it is shown"
        return {
            "tokens_charged": self.usage.prompt + self.usage.completion,
            "request_ms": round(1000 * (time.monotonic() - self._started)),
            "cost_usd": money.number(self.cost_nano),
            "user_balance_after": money.number(self.hold.credits_nano - self.cost_nano),
        }

    def settlement(
        self, outcome: str, transcript: Transcript, answer: bytes | None, memory: dict[str, Any] | None
    ) -> Settlement:
        """What is booked; `answer` is the completion to keep for the call's Idempotency-Key."""
        assert self.offer is not None, "an offer served what is settled"
        assert self.usage is not None, "charged before it is settled"
        return Settlement(
            hold_id=self.hold.hold_id,
            user_id=self.hold.user_id,
            key_id=self.hold.key_id,
            answer=_kept(answer) if answer and self.call.idempotency_key else None,
            memory=memory,
            usage=self._record(self.offer)
            | {
                "prompt_tokens": self.usage.prompt,
                "completion_tokens": self.usage.completion,
                "cached_tokens": self.usage.cached,
                "reasoning_tokens": self.usage.reasoning,
                "images": self.usage.images,
                "cost_nano": self.cost_nano,
                "byok_nano": self.byok_nano,
                "upstream_cost_nano": self.usage.upstream_cost_nano,
                "is_estimated": self.usage.is_estimated,
                "outcome": outcome,
                "finish_reason": transcript.finish_reason,
                "upstream_id": transcript.upstream_id,
                "first_byte_ms": self.first_byte_ms,
            },
        )

    def failure(self) -> dict[str, Any] | None:
        """The usage record of a request that every offer failed; None when none was tried to its end."""
        if self._failed is None:
            return None
        nothing = dict.fromkeys(("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens"), 0)
        return self._record(self._failed) | nothing | {"is_estimated": False, "error": self.attempts[-1]["error"]}

    def _record(self, offer: Offer) -> dict[str, Any]:
        """What the usage record of every request has."""
        return {
            "model": offer.model,
            "provider": offer.provider,
            "ip": self.call.ip,
            "is_byok": offer.sealed is not None,
            "is_streamed": bool(self.call.request.stream),
            "attempts": self.attempts or None,
            "duration_ms": round(1000 * (time.monotonic() - self._started)),
        }


def _kept(answer: bytes) -> str:
    """An answer as it is kept for an Idempotency-Key."""
    return answer.decode() if len(answer) <= MAX_ANSWER_BYTES else TOO_LARGE
