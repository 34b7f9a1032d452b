"""Telemetry: one JSON object a line on standard output, where Lambda and containers collect them, with its metrics.

Names of events and numbers, never prompts, answers, keys or a provider's words: anybody may read what is passed here.
A line about a request has its id and its trace's, and, once they are known, the user's and the key's number.

Metrics travel in the line that they belong to, in CloudWatch's embedded metric format, and cost the request no call:
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import Any

import msgspec

from gateway.settings import LOG_LEVELS, settings
from gateway.traces import Trace

NAMESPACE = "Gatewayz"
UNITS: Mapping[str, str] = {
    "Completions": "Count",
    "CompletionsFailed": "Count",
    "CompletionCost": "None",  # dollars
    "PromptTokens": "Count",
    "CompletionTokens": "Count",
    "FirstByteTime": "Milliseconds",
    "AttemptsFailed": "Count",
    "SettlementsQueued": "Count",
    "SettlementsLost": "Count",
    "UnsettledHolds": "Count",
    "UsageNotBelieved": "Count",
    "LedgerViolations": "Count",
    "DatabaseFailures": "Count",
}
"""Every metric, with CloudWatch's unit."""

type Meter = Callable[[Mapping[str, float], Mapping[str, str]], None]


class Request:
    """The request that is being served: its `marks` are on each of its lines, its `facts` and `metrics` on the last."""

    __slots__ = ("facts", "marks", "metrics", "trace")

    def __init__(self, request_id: str, trace: Trace) -> None:
        self.trace = trace
        self.marks: dict[str, Any] = {"request_id": request_id, "trace_id": trace.trace_id}
        self.facts: dict[str, Any] = {}
        self.metrics: dict[str, float] = {}


_serving: ContextVar[Request | None] = ContextVar("serving", default=None)
_meters: list[Meter] = []


def begin(request_id: str, trace: Trace) -> Request:
    """Have the lines of this request, of what runs in its context, carry its marks."""
    request = Request(request_id, trace)
    _serving.set(request)
    return request


def serving() -> Request | None:
    """The request whose context this is."""
    return _serving.get()


def identify(user_id: int, key_id: int) -> None:
    """Name the user and the key of the request."""
    if request := _serving.get():
        request.marks |= {"user_id": user_id, "key_id": key_id}


def meter_with(meter: Meter) -> None:
    """Give metrics (by name, with their dimensions) to `meter`, and not to CloudWatch: where there is none."""
    _meters.append(meter)


def measure(metrics: Mapping[str, float], dimensions: Mapping[str, str]) -> None:
    """Give the meters alone what CloudWatch knows by itself, from API Gateway; with no meter this does nothing."""
    for meter in _meters:
        meter(metrics, dimensions)


def log(
    event: str,
    *,
    level: str = "INFO",
    metrics: Mapping[str, float] | None = None,
    dimensions: Mapping[str, str] | None = None,
    **fields: Any,
) -> None:
    """Write one line, unless LOG_LEVEL is above its level; one with `metrics` (of UNITS) is always written.

    CloudWatch keeps a series for each stage, and for each value of `dimensions` of a stage.
    """
    told = _measured(metrics, dimensions or {}) if metrics else {}
    if not told and LOG_LEVELS[level] < LOG_LEVELS[settings.log_level]:
        return
    request = _serving.get()
    line = {
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": level,
        "event": event,
        **(request.marks if request else {}),
        **fields,
        **told,
    }
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()


def failure(event: str, error: BaseException, **fields: Any) -> None:
    """Log an unexpected error by its type and place; its text may hold what must not be read and stays out."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else None
    log(event, level="ERROR", error=type(error).__name__, place=place, **fields)


def _measured(metrics: Mapping[str, float], dimensions: Mapping[str, str]) -> dict[str, Any]:
    """The members by which a line carries metrics; nothing where a meter takes them."""
    if _meters:
        measure(metrics, dimensions)
        return {}
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [["Stage", *dimensions]],
        "Metrics": [{"Name": name, "Unit": UNITS[name]} for name in metrics],
    }
    extra = {"Stage": settings.stage, **dimensions, **metrics}
    return {"_aws": {"Timestamp": time.time_ns() // 1_000_000, "CloudWatchMetrics": [directive]}, **extra}
