"""A Docker engine: the one that runs here, else Debian's, started in a folder of its own and stopped again.

Its own engine leaves the machine's packet filter alone. Containers then reach this machine and nothing beyond it, which
is all that is asked of them.
"""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

INSTALL_S = 300
START_S = 60
STOP_S = 30
COMMAND_S = 60
BRIDGE = Path("/sys/class/net/docker0")
GUARD = 'read -r _; kill -TERM "$0"'
"""Ends the process $0 when nobody holds this shell's standard input any more: it is not to outlive who started it."""


class NoEngine(Exception):
    """There is no Docker engine and none can be had; the message says what would help."""


class Engine:
    """A running engine, at `host`; None is the one that Docker's own client would choose."""

    def __init__(self, host: str | None = None) -> None:
        self.environment = os.environ | ({"DOCKER_HOST": host} if host else {})

    def docker(
        self, *arguments: str, stdin: bytes | None = None, check: bool = True, timeout: float = COMMAND_S
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the client; raises CalledProcessError unless told not to `check`, and TimeoutExpired."""
        return subprocess.run(
            ["docker", *arguments],
            env=self.environment, input=stdin, capture_output=True, check=check, timeout=timeout,
        )  # fmt: skip

    @property
    def answers(self) -> bool:
        with suppress(OSError, subprocess.TimeoutExpired):
            return self.docker("info", check=False).returncode == 0
        return False

    @property
    def gateway(self) -> str:
        """This machine's address as containers see it: the first of their network."""
        (network,) = json.loads(self.docker("network", "inspect", "bridge").stdout)
        return str(ipaddress.ip_network(network["IPAM"]["Config"][0]["Subnet"])[1])

    def containers(self) -> set[str]:
        """SAM's containers that are there, running or not."""
        told = self.docker("ps", "--all", "--quiet", "--filter", "label=sam.cli.container.type=lambda")
        return set(told.stdout.decode().split())


@contextmanager
def running(folder: Path) -> Iterator[Engine]:
    """The engine that answers; else one of our own, whose images and containers are in `folder`. Raises NoEngine."""
    here = Engine()
    if here.answers:
        before = here.containers()
        try:
            yield here
        finally:
            if left := here.containers() - before:
                here.docker("rm", "--force", *left)
        return
    _install()
    with _started(folder) as host:
        yield Engine(host)


def _install() -> None:
    if shutil.which("dockerd"):
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise NoEngine(
            "No Docker engine answers. Start one; or be root on a Debian, where docker.io is then installed."
        )
    for command in (["update", "--quiet"], ["install", "--quiet", "--yes", "docker.io"]):
        done = subprocess.run(
            ["apt-get", *command],
            env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
            capture_output=True, text=True, check=False, timeout=INSTALL_S,
        )  # fmt: skip
        if done.returncode:
            raise NoEngine(f"docker.io could not be installed:\n{done.stdout[-1000:]}{done.stderr[-1000:]}")


@contextmanager
def _started(folder: Path) -> Iterator[str]:
    if os.geteuid() != 0:
        raise NoEngine("No Docker engine answers, and only root can start one.")
    folder.mkdir(parents=True)
    host, log = f"unix://{folder}/docker.sock", folder / "dockerd.log"
    had_bridge = BRIDGE.exists()
    with log.open("wb") as output:
        process = subprocess.Popen(_command(folder, host), stdout=output, stderr=subprocess.STDOUT)
    guard = subprocess.Popen(["sh", "-c", GUARD, str(process.pid)], stdin=subprocess.PIPE, start_new_session=True)
    try:
        _await(process, Engine(host), log)
        yield host
    finally:
        guard.kill()
        guard.communicate()
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_S)
        process.kill()
        process.wait()
        if not had_bridge and BRIDGE.exists():
            subprocess.run(["ip", "link", "delete", BRIDGE.name], check=False)
        shutil.rmtree(folder, ignore_errors=True)


def _command(folder: Path, host: str) -> list[str]:
    places = {"data-root": "data", "exec-root": "exec", "pidfile": "pid"}
    options = [f"--{option}={folder / name}" for option, name in places.items()]
    return ["dockerd", f"--host={host}", *options, "--iptables=false", "--ip-masq=false", "--ip6tables=false"]


def _await(process: subprocess.Popen[bytes], engine: Engine, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while not engine.answers:
        if process.poll() is not None or time.monotonic() > deadline:
            raise NoEngine(f"The Docker engine does not start here:\n{log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.1)
