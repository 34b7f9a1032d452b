"""The processes that the benchmark starts, stops, and whose cost it reads from Linux's /proc."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ROOT = Path(__file__).resolve().parent.parent
TICKS = os.sysconf("SC_CLK_TCK")
# A production image has its bytecode compiled; without it start-up looks several times worse.
NOT_INHERITED = {"PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED"}


def inherited(environment: Mapping[str, str]) -> dict[str, str]:
    """Our own environment, with `environment` on top, for a process that we start."""
    own = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
    return own | dict(environment)


class NotStarted(RuntimeError):
    """A process that should serve ended, or did not answer in time."""


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


def stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat from the third one (state) on. Raises OSError when the process is gone."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def tree(root: int) -> list[int]:
    """A process and all its living descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                children.setdefault(int(stat(int(entry.name))[1]), []).append(int(entry.name))
            except OSError:
                continue  # it ended while we looked
    found = [root]
    for pid in found:
        found += children.get(pid, [])
    return found


def cpu_seconds(root: int) -> float:
    """CPU time of a process tree: the living by their own clocks, the reaped by their parents'."""
    total = 0.0
    for pid in tree(root):
        try:
            total += time.clock_gettime((~pid << 3) | 2)  # the kernel's name of another process' CPU clock
            fields = stat(pid)
        except OSError:
            continue
        total += (int(fields[13]) + int(fields[14])) / TICKS
    return total


def memory_mb(root: int) -> float:
    """Memory of a process tree as PSS: a page that n processes share counts 1/n in each."""
    total = 0
    for pid in tree(root):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 1024


class Service:
    """One started process, in a session of its own: Ctrl-C reaches the benchmark alone, which stops it."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        log: Path,
        cpus: set[int] | None = None,
    ) -> None:
        self.name, self.log = name, log
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=inherited(environment),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.pid = self.process.pid
        if cpus:
            os.sched_setaffinity(self.pid, cpus)

    def check(self) -> None:
        """Raise NotStarted, with the end of its output, when the process has ended."""
        if self.process.poll() is not None:
            raise NotStarted(f"{self.name} ended with status {self.process.returncode}. {self.last_words()}")

    def last_words(self) -> str:
        """The end of its output."""
        return self.log.read_text(errors="replace")[-1500:].strip()

    def stop(self) -> None:
        """End the process and all of its session, kindly at first, within ten seconds."""
        for how, seconds in ((signal.SIGTERM, 7.0), (signal.SIGKILL, 3.0)):
            if self.process.poll() is None:
                os.killpg(self.pid, how)
                try:
                    self.process.wait(seconds)
                except subprocess.TimeoutExpired:
                    continue
        try:
            os.killpg(self.pid, signal.SIGKILL)  # whatever it left behind
        except ProcessLookupError:
            return
