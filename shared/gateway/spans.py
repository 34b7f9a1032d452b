"""Spans to a collector, by OpenTelemetry's protocol over HTTP with JSON: where OTEL_EXPORTER_OTLP_ENDPOINT says.

One small request after each completion that was sampled, made when its client has gone: OpenTelemetry's own SDK and
exporter would bring protobuf, requests and a thread that Lambda freezes, for the same bytes.
https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

import msgspec
from yarl import URL

from gateway import VERSION, outbound, telemetry
from gateway.errors import GatewayError
from gateway.settings import settings
from gateway.traces import Trace

SEND_S = 2.0
"""For a collector to take a span; then it is lost."""
CLIENT, FAILED = 3, 2
"""SpanKind and StatusCode of opentelemetry/proto/trace/v1/trace.proto."""


class Span(msgspec.Struct, frozen=True):
    """What was done in one place of a trace; times in nanoseconds since the epoch."""

    name: str
    trace: Trace
    began_ns: int
    ended_ns: int
    attributes: dict[str, Any]
    """str, int, or a list of str."""
    error: str | None = None


def are_sent() -> bool:
    """Whether anybody collects spans."""
    return settings.exporter is not None


async def send(span: Span) -> None:
    """Send one span; one that is not taken within SEND_S is lost, and the log says so."""
    exporter = settings.exporter
    if exporter is None:
        return
    secret = {name: value.reveal() for name, value in exporter.headers.items()}
    headers = {"content-type": "application/json", "accept-encoding": "identity", **secret}
    try:
        async with asyncio.timeout(SEND_S):
            reply = await outbound.post(URL(exporter.url), headers, msgspec.json.encode(_request(span)))
            status = reply.status
            reply.close()
    except (GatewayError, TimeoutError) as error:
        telemetry.log("span_not_sent", level="WARNING", error=type(error).__name__)
    else:
        if status != 200:
            telemetry.log("span_not_sent", level="WARNING", status=status)


def _request(span: Span) -> dict[str, Any]:
    """An ExportTraceServiceRequest: 64-bit numbers are strings, ids are hex."""
    trace = span.trace
    told = {
        "traceId": trace.trace_id,
        "spanId": trace.span_id,
        "parentSpanId": trace.parent_id or "",
        "traceState": trace.state,
        "name": span.name,
        "kind": CLIENT,
        "startTimeUnixNano": str(span.began_ns),
        "endTimeUnixNano": str(span.ended_ns),
        "attributes": _members(span.attributes | ({"error.type": span.error} if span.error else {})),
        "status": {"code": FAILED} if span.error else {},
    }
    resource = {"service.name": "gatewayz", "service.version": VERSION, "deployment.environment.name": settings.stage}
    scoped = {"scope": {"name": "gateway", "version": VERSION}, "spans": [told]}
    return {"resourceSpans": [{"resource": {"attributes": _members(resource)}, "scopeSpans": [scoped]}]}


def _members(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": name, "value": _value(value)} for name, value in attributes.items()]


def _value(value: str | int | list[str]) -> dict[str, Any]:
    if isinstance(value, list):
        return {"arrayValue": {"values": [_value(each) for each in value]}}
    return {"intValue": str(value)} if isinstance(value, int) else {"stringValue": value}
