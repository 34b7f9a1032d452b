"""`make bench`: the upstream alone, the floor and the gateway, measured in turn in one run. See README.md."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import uvloop

from bench import report
from bench.machine import Machine
from bench.run import Run

if TYPE_CHECKING:
    from collections.abc import Sequence


def options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="What the gateway costs.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="measure so many times (3)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure of every round here")
    return parser.parse_args(arguments)


async def bench(rounds: int) -> tuple[Machine, Run]:
    """Everything, once; whatever was started is stopped when this returns or is cancelled."""
    machine = Machine()
    with TemporaryDirectory(prefix="gatewayz-bench-") as folder, ExitStack() as stack:
        run = Run(stack, Path(folder), machine.gateway_cpus)
        await run.everything(rounds)
    machine.finish()
    return machine, run


def main() -> int:
    """Measure and print; 0 whatever the figures are, 1 when nothing could be measured, 130 after Ctrl-C."""
    chosen = options()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        machine, run = uvloop.run(bench(max(1, chosen.rounds)))
    except KeyboardInterrupt:
        return 130
    print(machine, report.table(run.lines), *run.notes, sep="\n\n")
    if chosen.json:
        content = {"machine": str(machine), "rounds": run.rounds, "lines": run.lines, "notes": run.notes}
        chosen.json.write_text(json.dumps(content, default=asdict, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
