"""What it costs until the first request: importing the inference function."""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from typing import TYPE_CHECKING

from bench.processes import ROOT, inherited
from bench.report import PRODUCT, Limit, Line

if TYPE_CHECKING:
    from collections.abc import Mapping

IMPORTS = 5
PROGRAM = """
import sys, time
bare, began = set(sys.modules), time.perf_counter_ns()
import chat.handler
print(len(sys.modules.keys() - bare), (time.perf_counter_ns() - began) / 1e6)
"""


def imported(settings: Mapping[str, str]) -> list[Line]:
    """Importing chat.handler in a fresh interpreter: modules beyond a bare one; milliseconds, median of 5."""
    modules, times = 0.0, []
    for _ in range(1 + IMPORTS):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            cwd=ROOT,
            env=inherited(settings),
            capture_output=True,
            text=True,
            check=True,
            timeout=60,
        )
        modules, milliseconds = map(float, done.stdout.split())
        times.append(milliseconds)
    # The first import compiles what has no bytecode yet, so it does not count.
    return [
        Line("modules imported by chat.handler", {PRODUCT: modules}, Limit(450), digits=0),
        Line("import of chat.handler, ms", {PRODUCT: median(times[1:])}, digits=0),
    ]
