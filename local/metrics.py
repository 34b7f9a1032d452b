"""CloudWatch, as far as alarms look at it: what Lambda, API Gateway and SQS count, and what functions' logs tell.

https://docs.aws.amazon.com/lambda/latest/dg/monitoring-metrics-types.html
https://docs.aws.amazon.com/apigateway/latest/developerguide/api-gateway-metrics-and-dimensions.html
https://docs.aws.amazon.com/AmazonCloudWatch/latest/monitoring/CloudWatch_Embedded_Metric_Format_Specification.html
"""

from __future__ import annotations

import json
from collections import defaultdict
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

type Series = tuple[str, str, frozenset[tuple[str, str]]]
"""Namespace, name and dimensions of a metric."""

STATISTICS: Mapping[str, Callable[[list[float]], float]] = {
    "Sum": sum,
    "Maximum": max,
    "Minimum": min,
    "Average": lambda values: sum(values) / len(values),
    "SampleCount": len,
}


class Metrics:
    """All that was measured since the start; a gauge is read when it is asked for."""

    def __init__(self) -> None:
        self._values: dict[Series, list[float]] = defaultdict(list)
        self._gauges: dict[Series, Callable[[], float]] = {}

    def put(self, namespace: str, name: str, dimensions: Mapping[str, str], value: float = 1) -> None:
        """Measure once."""
        self._values[_series(namespace, name, dimensions)].append(value)

    def gauge(self, namespace: str, name: str, dimensions: Mapping[str, str], value: Callable[[], float]) -> None:
        """Have a metric read from `value`."""
        self._gauges[_series(namespace, name, dimensions)] = value

    def take(self, line: str) -> None:
        """Measure what a line of a log has in the embedded metric format; any other line is nothing to it."""
        if '"_aws"' not in line:
            return
        told: dict[str, Any] = json.loads(line)
        for directive in told["_aws"]["CloudWatchMetrics"]:
            for names in directive["Dimensions"]:
                dimensions = {name: told[name] for name in names}
                for metric in directive["Metrics"]:
                    self.put(directive["Namespace"], metric["Name"], dimensions, told[metric["Name"]])

    def statistic(self, namespace: str, name: str, dimensions: Mapping[str, str], statistic: str) -> float | None:
        """Of all that was measured; None for nothing. Raises KeyError for a statistic that is not known."""
        series = _series(namespace, name, dimensions)
        values = [self._gauges[series]()] if series in self._gauges else self._values.get(series)
        return STATISTICS[statistic](values) if values else None


def _series(namespace: str, name: str, dimensions: Mapping[str, str]) -> Series:
    return namespace, name, frozenset(dimensions.items())
