"""The loads, and what one of them costs one target: CPU by process clocks, times as the client sees them."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from bench.client import Load, Work
from bench.processes import NotStarted, cpu_seconds, memory_mb

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.processes import Service

READY_SECONDS = 30.0
CHUNKS = 200
OPEN_STREAMS = 64

LOADS = {
    "json_1": Work(requests=300, connections=1),
    "json_16": Work(requests=640, connections=16),
    "sse_1": Work(requests=40, connections=1, chunks=8, interval=2000),
    "sse_16": Work(requests=32, connections=16, chunks=CHUNKS, interval=5000),
}
HELD_OPEN = Work(requests=OPEN_STREAMS, connections=OPEN_STREAMS, chunks=100, interval=20_000)
AFTER_THE_LAST = 0.25
"""Seconds in which work that is done after answering is still counted."""


@dataclass(frozen=True, slots=True)
class Target:
    """What is asked: the upstream itself (no process to account for), or a gateway before it."""

    name: str
    port: int
    key: str
    process: Service | None = None

    def cpu_seconds(self) -> float:
        """CPU time that its processes have used."""
        return cpu_seconds(self.process.pid) if self.process else 0.0


@dataclass(frozen=True, slots=True)
class Figures:
    """One load on one target in one round. CPU in milliseconds per request, times in microseconds."""

    cpu: float
    database_cpu: float
    rate: float
    latency_p50: float
    latency_p99: float
    first_p50: float
    late_p50: float
    late_p99: float
    errors: dict[str, int] = field(default_factory=dict)


type Round = dict[str, dict[str, Figures]]
"""Load name -> target name -> figures."""


def percentile(values: Sequence[float], share: float) -> float:
    """The value below which `share` of the others are, 0 when there are none."""
    return sorted(values)[round((len(values) - 1) * share)] if values else 0.0


async def measure(target: Target, work: Work, database: int) -> Figures:
    """One load after a warm-up that does not count; `database` is the process whose CPU is told apart."""
    await Load(target.port, target.key, replace(work, requests=work.connections)).run()
    await asyncio.sleep(AFTER_THE_LAST)
    own, theirs = target.cpu_seconds(), cpu_seconds(database)
    outcome = await Load(target.port, target.key, work).run()
    await asyncio.sleep(AFTER_THE_LAST)
    own, theirs = target.cpu_seconds() - own, cpu_seconds(database) - theirs
    each = 1e3 / max(1, outcome.answers)
    return Figures(
        cpu=own * each,
        database_cpu=theirs * each,
        rate=outcome.answers / outcome.seconds,
        latency_p50=percentile(outcome.latency, 0.5),
        latency_p99=percentile(outcome.latency, 0.99),
        first_p50=percentile(outcome.first, 0.5),
        late_p50=percentile(outcome.late, 0.5),
        late_p99=percentile(outcome.late, 0.99),
        errors=dict(outcome.errors),
    )


async def one_round(targets: Sequence[Target], database: int, *, reverse: bool) -> Round:
    """Every load on every target in turn, so that what disturbs the machine disturbs them all."""
    order = targets[::-1] if reverse else targets
    return {
        name: {target.name: await measure(target, work, database) for target in order} for name, work in LOADS.items()
    }


async def memory_with_streams(target: Target) -> float:
    """Memory in MB of a gateway while 64 streams are open at once; 0 when they never were."""
    load = Load(target.port, target.key, HELD_OPEN)
    running = asyncio.create_task(load.run())
    memory = 0.0
    while not running.done():
        if load.streaming == OPEN_STREAMS and target.process:
            memory = max(memory, memory_mb(target.process.pid))
        await asyncio.sleep(0.2)
    await running
    return memory


async def ready(target: Target) -> None:
    """Wait until the target answers a completion. Raises NotStarted when it ends before or takes long."""
    work = Work(requests=1, connections=1, seconds=5.0)
    deadline = time.monotonic() + READY_SECONDS
    while (outcome := await Load(target.port, target.key, work).run()).errors:
        if target.process:
            target.process.check()
        if time.monotonic() > deadline:
            said = target.process.last_words() if target.process else ""
            raise NotStarted(f"{target.name} does not answer: {', '.join(outcome.errors)}. {said}")
        await asyncio.sleep(0.01)
