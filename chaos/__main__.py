"""`make chaos`: the gateway while everything goes wrong around it, and what that does to its customers and its books.

Eight faults, one after the other, each for half a minute, while clients go on asking; five to seven minutes in all. It
needs Linux; as root it fills a small disk and has a name server of its own, else those two are left out. The exit
status is 1 when the books are wrong or the gateway did not come back.

python -m chaos --seconds 5          # each fault for five seconds
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import sys
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bench.processes import NotStarted, memory_mb
from chaos.faults import FAULTS, Fault, LeftOut, Scale
from chaos.stand import Books, Stand, descriptors
from chaos.traffic import Tally

if TYPE_CHECKING:
    from collections.abc import Mapping

CLIENTS = 8
WHOLE = Scale(storm=256, times=5, readers=24, seconds=30.0)
SETTLING_S = 30.0
"""For what settles after the last answer."""


@dataclass(slots=True)
class Report:
    """The figures of each phase, what was left out, and what the books say at the end."""

    phases: dict[str, dict[str, float]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    answered: int = 0
    books: Books = field(default_factory=Books)

    @property
    def is_sound(self) -> bool:
        """Whether the books are in order and nothing was charged twice."""
        return self.books.violations == self.books.twice == 0

    def lines(self) -> list[str]:
        names = list(next(iter(self.phases.values())))
        table = [f"{'':26}" + "".join(f"{name:>15}" for name in names)]
        for phase, figures in self.phases.items():
            table.append(f"{phase:26}" + "".join(f"{figures[name]:15.0f}" for name in names))
        table += [f"{phase}: left out, {why}" for phase, why in self.left_out.items()]
        books = self.books
        return [
            *table,
            f"{self.answered} completions were answered whole; {books.charges} charges, {books.twice} of them twice",
            f"{books.violations} rules of the ledger are broken",
            f"killed processes left {books.unpaid} answers without a charge, and {books.open} holds that will expire",
        ]


async def run(stand: Stand, scale: Scale, faults: Mapping[str, Fault] = FAULTS) -> Report:
    """Each fault in turn, at a stand that was started. Raises NotStarted when the gateway does not come back."""
    report = Report()
    stand.traffic.tally = Tally()
    async with stand.traffic.running(CLIENTS):
        await asyncio.sleep(min(scale.seconds, 5))
        report.phases["nothing"] = await figures(stand, 0)
        for name, fault in faults.items():
            stand.traffic.tally = Tally()
            try:
                await fault(stand, scale)
            except LeftOut as why:
                report.left_out[name] = str(why)
                continue
            report.phases[name] = await figures(stand, await stand.healthy())
            await stand.ask_names_of(None)
    report.books = await settled(stand)
    report.answered = len(stand.traffic.answered)
    return report


async def figures(stand: Stand, back_s: float) -> dict[str, float]:
    """What came of a phase's requests, how many answers have no charge yet, and what the gateway's process has now."""
    pid = stand.gateway.pid
    own = {"back after ms": 1000 * back_s, "memory MB": memory_mb(pid), "descriptors": float(descriptors(pid))}
    return stand.traffic.tally.figures() | own | {"uncharged": float((await stand.books()).unpaid)}


async def settled(stand: Stand) -> Books:
    """The books, once no request settles any more or `SETTLING_S` have gone by."""
    books = await stand.books()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLING_S):
            while True:
                await asyncio.sleep(1)
                before, books = books, await stand.books()
                if before == books:
                    break
    return books


async def whole(stand: Stand, scale: Scale) -> Report:
    """From the start to the report."""
    await stand.start()
    return await run(stand, scale)


def main() -> int:
    """Print the table; the exit status."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    options.add_argument("--seconds", type=float, default=WHOLE.seconds, help="how long each fault lasts")
    seconds = options.parse_args().seconds
    scale = Scale(WHOLE.storm, WHOLE.times, WHOLE.readers, seconds)
    with TemporaryDirectory(prefix="gatewayz-chaos-") as folder, contextlib.ExitStack() as stack:
        try:
            report = asyncio.run(whole(Stand(stack, Path(folder)), scale))
        except NotStarted as error:
            print(f"The gateway did not come back: {error}")
            return 1
    print("\n".join(report.lines()))
    return 0 if report.is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
