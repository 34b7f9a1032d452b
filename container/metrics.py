"""`GET /metrics` for Prometheus, on METRICS_PORT: a port of its own, which is not the API's and not for the internet.

Without METRICS_PORT there is none, and metrics are in the log as they are on Lambda.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from gateway import telemetry

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0)


class Prometheus:
    """A telemetry.Meter: the product's metrics under Prometheus' names, in its units."""

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        # only who measures needs the package: what `make run` installs does without it
        from prometheus_client import REGISTRY, Counter, Gauge, Histogram  # noqa: PLC0415

        registry = registry or REGISTRY

        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"gatewayz_{name}", what, labels, registry=registry)

        self._counters: Mapping[str, Counter] = {
            "Requests": counter("requests", "Requests that were answered.", "operation", "status"),
            "Completions": counter("completions", "Completions that were charged."),
            "CompletionsFailed": counter("completions_failed", "Completions that every provider failed."),
            "CompletionCost": counter("completion_cost_dollars", "What completions were charged."),
            "PromptTokens": counter("prompt_tokens", "Tokens that were read."),
            "CompletionTokens": counter("completion_tokens", "Tokens that were written."),
            "AttemptsFailed": counter("attempts_failed", "Requests that a provider failed.", "provider"),
            "SettlementsQueued": counter("settlements_queued", "Charges that went to the queue."),
            "SettlementsLost": counter("settlements_lost", "Charges that are in the log alone."),
            "UnsettledHolds": counter("unsettled_holds", "Holds that expired without a settlement."),
            "UsageNotBelieved": counter("usage_not_believed", "Usages above what was sent or asked for."),
            "DatabaseFailures": counter("database_failures", "Calls that found no database."),
        }
        self._times: Mapping[str, Histogram] = {
            name: Histogram(f"gatewayz_{called}_seconds", what, labels, buckets=SECONDS, registry=registry)
            for name, called, what, labels in (
                ("RequestTime", "request", "Until a client had its last byte.", ("operation", "status")),
                ("FirstByteTime", "first_byte", "From a completion's admission to its first token.", ()),
            )
        }
        violations = Gauge("gatewayz_ledger_violations", "Users whose books are not in order.", registry=registry)
        self._gauges: Mapping[str, Gauge] = {"LedgerViolations": violations}

    def __call__(self, metrics: Mapping[str, float], dimensions: Mapping[str, str]) -> None:
        labels = {name.lower(): value for name, value in dimensions.items()}
        for name, value in metrics.items():
            if name in self._gauges:
                self._gauges[name].set(value)
            elif name in self._times:
                histogram = self._times[name]
                (histogram.labels(**labels) if labels else histogram).observe(value / 1000)
            else:
                count = self._counters[name]
                (count.labels(**labels) if labels else count).inc(value)


def serve() -> None:
    """Measure from now on, where METRICS_PORT says so. Raises OSError when that port is taken."""
    if port := os.environ.get("METRICS_PORT"):
        from prometheus_client import start_http_server  # noqa: PLC0415

        telemetry.meter_with(Prometheus())
        start_http_server(int(port))
