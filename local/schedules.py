"""EventBridge Scheduler: functions that are invoked every so often.

https://docs.aws.amazon.com/scheduler/latest/UserGuide/schedule-types.html
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING, Any

from local.invocation import FunctionError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from local.template import Schedule

SECONDS = {"minute": 60, "hour": 3600, "day": 86_400}


class UnsupportedSchedule(ValueError):
    """An expression that EventBridge refuses, or that is not supported locally."""


def period_s(expression: str) -> float:
    """The seconds of `rate(value unit)`. Raises UnsupportedSchedule, also for cron(...) and at(...)."""
    match = re.fullmatch(r"rate\(([1-9]\d*) (minute|hour|day)(s?)\)", expression)
    if not match:
        kind = expression.partition("(")[0]
        reason = "is not supported locally" if kind in {"cron", "at"} else "is not rate(value unit)"
        raise UnsupportedSchedule(f"{expression} {reason}")
    return int(match[1]) * SECONDS[match[2]]


async def repeat(
    schedule: Schedule,
    every_s: float,
    invoke: Callable[[str, Any], Awaitable[Any]],
    log: Callable[[str, str], None],
) -> None:
    """Invoke the schedule's function with the schedule's input, for ever; the first time after one period."""
    while True:
        await asyncio.sleep(every_s)
        try:
            await invoke(schedule.function, json.loads(schedule.input))
        except FunctionError as error:
            log(schedule.function, f"schedule {schedule.name} failed: {error}")
