"""`make soak`: ten minutes of mixed traffic, and whether the gateway's processes grow by it.

Memory and descriptors are looked at every five seconds; the slope is that of the straight line nearest to the second
half, when pools and caches are full. The exit status is 1 when something grows or the books are wrong.

python -m chaos.soak --seconds 120
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import statistics
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bench.processes import memory_mb
from chaos.__main__ import CLIENTS, settled
from chaos.stand import Books, Stand, descriptors

if TYPE_CHECKING:
    from bench.processes import Service

SECONDS = 600.0
SAMPLES = 120
MOST_MB = 8.0
MOST_DESCRIPTORS = 4.0
"""What a process may grow by in ten minutes: what the machine's other work makes of a line that is level."""


@dataclass(slots=True)
class Growth:
    """Samples of one process, `every` seconds apart."""

    every: float
    memory_mb: list[float] = field(default_factory=list)
    descriptors: list[float] = field(default_factory=list)

    def look(self, service: Service) -> None:
        service.check()
        self.memory_mb.append(memory_mb(service.pid))
        self.descriptors.append(float(descriptors(service.pid)))

    def slope(self, samples: list[float]) -> float:
        """How much they grow in ten minutes, by the second half of them."""
        half = samples[len(samples) // 2 :]
        return SECONDS / self.every * statistics.linear_regression(range(len(half)), half).slope

    @property
    def is_level(self) -> bool:
        return self.slope(self.memory_mb) <= MOST_MB and self.slope(self.descriptors) <= MOST_DESCRIPTORS


@dataclass(slots=True)
class Report:
    """What each process grew by, and what the books say."""

    growth: dict[str, Growth]
    figures: dict[str, float]
    books: Books

    @property
    def is_sound(self) -> bool:
        """Whether the books are in order, and every answer is in them."""
        return self.books.violations == self.books.twice == self.books.unpaid == self.books.open == 0

    def lines(self) -> list[str]:
        table = [f"{'':12}{'first':>10}{'last':>10}{'most':>10}{'in 10 min':>12}"]
        for name, growth in self.growth.items():
            for what, samples in (("MB", growth.memory_mb), ("descriptors", growth.descriptors)):
                row = f"{samples[0]:10.1f}{samples[-1]:10.1f}{max(samples):10.1f}{growth.slope(samples):+12.2f}"
                table += [f"{name} {what}", f"{'':12}{row}"]
        traffic = ", ".join(f"{name} {value:.0f}" for name, value in self.figures.items())
        return [*table, traffic, ", ".join(f"{name} {value}" for name, value in self.books._asdict().items())]


async def run(stand: Stand, seconds: float, samples: int = SAMPLES) -> Report:
    """Traffic for so long, at a stand that was started. Raises NotStarted when a process ends by itself."""
    growth = {name: Growth(seconds / samples) for name in ("gateway", "jobs")}
    async with stand.traffic.running(CLIENTS):
        for _ in range(samples):
            await asyncio.sleep(seconds / samples)
            growth["gateway"].look(stand.gateway)
            growth["jobs"].look(stand.jobs)
    return Report(growth, stand.traffic.tally.figures(), await settled(stand))


async def whole(stand: Stand, seconds: float) -> Report:
    """From the start to the report."""
    await stand.start()
    return await run(stand, seconds)


def main() -> int:
    """Print the table; the exit status."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--seconds", type=float, default=SECONDS, help="how long the traffic lasts")
    seconds = options.parse_args().seconds
    with TemporaryDirectory(prefix="gatewayz-soak-") as folder, contextlib.ExitStack() as stack:
        report = asyncio.run(whole(Stand(stack, Path(folder)), seconds))
    print("\n".join(report.lines()))
    return 0 if report.is_sound and all(growth.is_level for growth in report.growth.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
