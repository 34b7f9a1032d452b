"""AWS's own Runtime API: the emulator that aws-sam-cli ships (RIE), Lambda's own code.

It gives a streamed response back whole, its prelude included.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
from importlib.metadata import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

ARCHITECTURE = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}[platform.machine()]
"""This machine's, as Lambda calls it."""


class Emulated:
    """A function under the emulator: `command` is its runtime, `environment` all that it finds set."""

    def __init__(self, command: Sequence[str], folder: Path, environment: Mapping[str, str]) -> None:
        runtime, self.address = (f"127.0.0.1:{port}" for port in free_ports(2))
        self.process = subprocess.Popen(
            [
                *(_emulator(), "--log-level", "error"),
                *("--runtime-api-address", runtime, "--runtime-interface-emulator-address", self.address),
                *command,
            ],
            cwd=folder,
            env={"PATH": os.defpath, "AWS_LAMBDA_FUNCTION_NAME": "Emulated", **environment},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        transport = httpx.HTTPTransport(retries=8)
        self.client = httpx.Client(transport=transport, timeout=30)

    def invoke(self, event: Mapping[str, Any]) -> httpx.Response:
        """What the function makes of an event."""
        return self.client.post(f"http://{self.address}/2015-03-31/functions/function/invocations", json=event)

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait()


def parts(response: httpx.Response) -> tuple[dict[str, Any], bytes]:
    """The prelude and the body of a streamed response."""
    metadata, delimiter, body = response.content.partition(bytes(8))
    assert delimiter, response.content
    return json.loads(metadata), body


def _emulator() -> Path:
    found = [path for path in files("aws-sam-cli") or () if path.name == f"aws-lambda-rie-{ARCHITECTURE}"]
    return Path(str(found[0].locate()))


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [taken.getsockname()[1] for taken in sockets]
    for taken in sockets:
        taken.close()
    return ports
