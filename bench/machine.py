"""The machine that the figures are from: its CPUs, who runs on which, and how much of it others used."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench.processes import TICKS

DOUBTFUL = 0.1
"""The share of the machine that others may use before they are part of every latency."""


def busy() -> tuple[int, int]:
    """Ticks that the machine's CPUs worked, and ticks in all, since it started."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split()[1:9]]
    idle = ticks[3] + ticks[4]  # idle, and waiting for a disk
    return sum(ticks) - idle, sum(ticks)


def own_ticks() -> float:
    """Ticks that this process and the children it has reaped worked."""
    times = os.times()
    return (times.user + times.system + times.children_user + times.children_system) * TICKS


class Machine:
    """Takes the first CPU for the gateways and leaves the others to the rest, when there are several."""

    def __init__(self) -> None:
        self.cpus = sorted(os.sched_getaffinity(0))
        self.gateway_cpus = set(self.cpus[:1]) if len(self.cpus) > 1 else None
        if self.gateway_cpus:
            os.sched_setaffinity(0, self.cpus[1:])  # this process, and what it starts without a word on CPUs
        self.began, self.busy, self.own = time.perf_counter(), busy(), own_ticks()
        self.seconds = self.others = 0.0

    def finish(self) -> None:
        """Call when everything that was started has been stopped and reaped."""
        worked, ticks = (now - then for now, then in zip(busy(), self.busy, strict=True))
        self.others = max(0.0, worked - (own_ticks() - self.own)) / max(1, ticks)
        self.seconds = time.perf_counter() - self.began

    def __str__(self) -> str:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
        where = f"gateways alone on CPU {self.cpus[0]}" if self.gateway_cpus else "everything on one CPU"
        doubt = " Believe CPU times and ratios, not latencies." if self.others > DOUBTFUL else ""
        return (
            f"{next(names, 'CPU')}, {len(self.cpus)} CPUs, {where}; {self.seconds:.0f} s, "
            f"in which others used {self.others:.0%} of the machine.{doubt}"
        )
