"""What operators are told of a completion: facts and metrics in its request's line, and a span where spans are sent.

It is told after settlement, when the client has had the last byte.
"""

from __future__ import annotations

import time
from typing import Any

from gateway import spans, telemetry
from gateway.inference.bill import Bill
from gateway.money import NANO
from gateway.spans import Span

OPERATIONS = {"chat": "chat", "embedding": "embeddings", "image": "image_generation"}
"""A model's kind -> OpenTelemetry's gen_ai.operation.name."""


async def report(bill: Bill, outcome: str, finish_reason: str | None) -> None:
    """Tell what became of an admitted call. A collector that is away costs a span, and the log says so."""
    if (request := telemetry.serving()) is None:
        return
    if bill.usage is None:
        outcome = "failed" if bill.attempts else "released"
    request.facts |= _facts(bill, outcome)
    request.metrics |= _metrics(bill, outcome)
    if spans.are_sent() and request.trace.is_sampled:
        attributes = _attributes(bill, finish_reason, request.marks)
        name = f"{attributes['gen_ai.operation.name']} {bill.call.request.model}"
        error = bill.attempts[-1]["error"] if outcome == "failed" else None
        await spans.send(Span(name, request.trace, bill.began_ns, time.time_ns(), attributes, error))


def _facts(bill: Bill, outcome: str) -> dict[str, Any]:
    facts: dict[str, Any] = {
        "generation": bill.id,
        "model": bill.offer.model if bill.offer else bill.call.request.model,
        "provider": bill.offer.provider if bill.offer else None,
        "is_streamed": bool(bill.call.request.stream),
        "attempts_failed": len(bill.attempts),
        "outcome": outcome,
    }
    if bill.usage is not None:
        facts |= {
            "prompt_tokens": bill.usage.prompt,
            "completion_tokens": bill.usage.completion,
            "cost_nano": bill.cost_nano,
            "first_byte_ms": bill.first_byte_ms,
        }
    return facts


def _metrics(bill: Bill, outcome: str) -> dict[str, float]:
    if bill.usage is None:
        return {"CompletionsFailed": 1} if outcome == "failed" else {}
    metrics: dict[str, float] = {
        "Completions": 1,
        "CompletionCost": bill.cost_nano / NANO,  # for a graph; what is booked are nano-dollars
        "PromptTokens": bill.usage.prompt,
        "CompletionTokens": bill.usage.completion,
    }
    return metrics if bill.first_byte_ms is None else metrics | {"FirstByteTime": bill.first_byte_ms}


def _attributes(bill: Bill, finish_reason: str | None, marks: dict[str, Any]) -> dict[str, Any]:
    """https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/, and what only a gateway knows."""
    attributes: dict[str, Any] = {
        "gen_ai.operation.name": OPERATIONS[bill.call.request.kind],
        "gen_ai.request.model": bill.call.request.model,
        "gen_ai.response.id": bill.id,
        "gateway.user_id": marks["user_id"],
        "gateway.key_id": marks["key_id"],
        "gateway.request_id": marks["request_id"],
        "gateway.attempts_failed": len(bill.attempts),
    }
    if bill.offer is not None:
        attributes |= {"gen_ai.provider.name": bill.offer.provider, "gen_ai.response.model": bill.offer.model}
    if bill.usage is not None:
        attributes |= {
            "gen_ai.usage.input_tokens": bill.usage.prompt,
            "gen_ai.usage.output_tokens": bill.usage.completion,
            "gateway.cost_nano": bill.cost_nano,
        }
    return attributes | ({"gen_ai.response.finish_reasons": [finish_reason]} if finish_reason else {})
