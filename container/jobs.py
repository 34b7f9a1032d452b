"""`python -m container.jobs`: template.yaml's schedules, fired in this process, until SIGTERM or SIGINT.

Every job runs at the start and then as often as its schedule says, for no longer than the jobs function may: a process
that is replaced more often than once a day still does what is due daily. One that fails is logged, and comes again. A
job never meets itself here; two of these processes at the same time do no harm.
"""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path
from typing import Any

from container import logs, metrics
from gateway import database, outbound, telemetry
from jobs.handler import run
from local.schedules import period_s, repeat
from local.template import Schedule, load

TEMPLATE = Path(__file__).parent.parent / "template.yaml"
FUNCTION = "JobsFunction"


class Jobs:
    """The jobs that run. Stopping waits for them."""

    def __init__(self, limit_s: float) -> None:
        self._limit_s = limit_s
        self._running: set[asyncio.Task[None]] = set()

    async def every(self, period_s: float, schedule: Schedule) -> None:
        """Fire a schedule now, and then for ever."""
        await self.fire(schedule.function, json.loads(schedule.input))
        await repeat(schedule, period_s, self.fire, lambda *_: None)

    async def fire(self, _function: str, event: dict[str, Any]) -> None:
        """Run a job. Who waits for it may be cancelled, the job is not."""
        job = asyncio.create_task(self._run(event["job"]))
        self._running.add(job)
        job.add_done_callback(self._running.discard)
        await asyncio.shield(job)

    async def ended(self) -> None:
        """Wait for the jobs that run."""
        await asyncio.gather(*self._running)

    async def _run(self, name: str) -> None:
        try:
            async with asyncio.timeout(self._limit_s):
                await run(name)
        except Exception as error:  # noqa: BLE001 - whatever it was, the schedule goes on
            telemetry.failure("job_failed", error, job=name)


async def main() -> None:
    """Fire the schedules until told to stop; then finish the jobs that run. Raises UnsupportedSchedule."""
    stopped = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stopped.set)
    template = load(TEMPLATE, "")
    (limit_s,) = (function.timeout_s for function in template.functions if function.name == FUNCTION)
    jobs = Jobs(limit_s)
    periods = [period_s(schedule.expression) for schedule in template.schedules]
    schedules = [asyncio.create_task(each) for each in map(jobs.every, periods, template.schedules)]
    telemetry.log("schedules_started", schedules=len(schedules))
    await stopped.wait()
    for schedule in schedules:
        schedule.cancel()
    await jobs.ended()
    await outbound.close()
    await database.close()
    telemetry.log("drained")


if __name__ == "__main__":
    logs.collect()
    metrics.serve()
    asyncio.run(main())
