"""The core of test_streaming on AWS's own Runtime API: the emulator that aws-sam-cli ships, Lambda's own code.

It gives a streamed response back whole, its prelude included.
"""

from __future__ import annotations

import json
import os
import platform
import socket
import subprocess
import sys
from importlib.metadata import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
MACHINES = {"x86_64": "x86_64", "aarch64": "arm64", "arm64": "arm64"}
TIMEOUT_S = 3

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the emulator is a Linux program")


def emulator() -> Path:
    name = f"aws-lambda-rie-{MACHINES[platform.machine()]}"
    found = [path for path in files("aws-sam-cli") or () if path.name == name]
    return Path(str(found[0].locate()))


def free_addresses(count: int) -> list[str]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    addresses = [f"127.0.0.1:{taken.getsockname()[1]}" for taken in sockets]
    for taken in sockets:
        taken.close()
    return addresses


class Emulated:
    """A function under the emulator."""

    def __init__(self, handler: str) -> None:
        runtime, self.address = free_addresses(2)
        self.process = subprocess.Popen(
            [
                *(emulator(), "--log-level", "error"),
                *("--runtime-api-address", runtime, "--runtime-interface-emulator-address", self.address),
                *(sys.executable, "-m", "gateway.http.streaming", handler),
            ],
            cwd=HERE / "functions",
            env={
                "PATH": os.defpath,
                "PYTHONPATH": f"{HERE / 'functions'}:{ROOT / 'shared'}",
                "AWS_LAMBDA_FUNCTION_NAME": "Emulated",
                "AWS_LAMBDA_FUNCTION_TIMEOUT": str(TIMEOUT_S),
            },
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        transport = httpx.HTTPTransport(retries=8)
        self.client = httpx.Client(transport=transport, timeout=30)

    def get(self, path: str, method: str = "GET", body: str | None = None, **query: str) -> httpx.Response:
        event = {
            "resource": "/{rest+}",
            "path": path,
            "httpMethod": method,
            "headers": None,
            "multiValueHeaders": None,
            "multiValueQueryStringParameters": {name: [value] for name, value in query.items()},
            "requestContext": {"identity": {"sourceIp": "192.0.2.7"}},
            "body": body,
        }
        url = f"http://{self.address}/2015-03-31/functions/function/invocations"
        return self.client.post(url, json=event)

    def stop(self) -> None:
        self.client.close()
        self.process.terminate()
        self.process.wait()


def started(handler: str) -> Iterator[Emulated]:
    emulated = Emulated(handler)
    yield emulated
    emulated.stop()


@pytest.fixture(scope="module")
def stream() -> Iterator[Emulated]:
    yield from started("stream.handler.handler")


@pytest.fixture(scope="module")
def raw() -> Iterator[Emulated]:
    yield from started("raw.handler.handler")


def parts(response: httpx.Response) -> tuple[dict[str, Any], bytes]:
    metadata, delimiter, body = response.content.partition(bytes(8))
    assert delimiter, response.content
    return json.loads(metadata), body


def test_a_stream_has_prelude_and_body(stream: Emulated):
    metadata, body = parts(stream.get("/stream/events"))
    assert metadata["statusCode"] == 200
    assert metadata["headers"] == {"content-type": "text/event-stream; charset=utf-8"}
    assert body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


def test_cookies_are_apart(stream: Emulated):
    metadata, _ = parts(stream.get("/stream/cookies"))
    assert [cookie.partition(";")[0] for cookie in metadata["cookies"]] == ["a=1", "b=2"]
    assert metadata["headers"]["vary"] == "origin, accept"


def test_a_request_body_arrives(stream: Emulated):
    assert parts(stream.get("/stream/echo", "POST", "text"))[1] == b"text"


@pytest.mark.parametrize(("status", "body"), [("200", b"\n"), ("204", b"")])
def test_a_response_without_a_body(stream: Emulated, status: str, body: bytes):
    assert parts(stream.get("/stream/empty", status=status)) == (
        {"statusCode": int(status), "headers": {}, "cookies": []},
        body,
    )


def test_work_after_the_answer_is_done_before_the_next(stream: Emulated, tmp_path: Path):
    gate, done = tmp_path / "gate", tmp_path / "done"
    gate.touch()
    assert parts(stream.get("/stream/background", gate=str(gate), done=str(done)))[1] == b"answered"
    parts(stream.get("/stream/scope"))
    assert done.exists()


@pytest.mark.parametrize("text", ["x", "\0", '"', "\N{GRINNING FACE}"])
def test_an_error_in_mid_stream_spares_the_environment(stream: Emulated, text: str):
    before = json.loads(parts(stream.get("/stream/scope"))[1])
    stream.get("/stream/mid_stream", text=text)
    after = json.loads(parts(stream.get("/stream/scope"))[1])
    assert after["pid"] == before["pid"]


def test_the_app_is_cancelled_before_its_deadline(stream: Emulated, tmp_path: Path):
    before = json.loads(parts(stream.get("/stream/scope"))[1])
    done = tmp_path / "done"
    stream.get("/stream/endless", done=str(done))
    after = json.loads(parts(stream.get("/stream/scope"))[1])
    assert done.exists()
    assert after["pid"] == before["pid"]


@pytest.mark.parametrize(
    ("fault", "kind"), [("silent", "RuntimeError"), ("raises", "ValueError"), ("cancelled", "CancelledError")]
)
def test_an_error_before_the_first_byte_is_reported(raw: Emulated, fault: str, kind: str):
    assert raw.get(f"/raw/{fault}").json()["errorType"] == kind
    assert parts(raw.get("/raw/fine"))[1] == b"chunk"


@pytest.mark.parametrize("fault", ["unfinished", "twice"])
def test_a_response_that_is_not_ended_spares_the_environment(raw: Emulated, fault: str):
    raw.get(f"/raw/{fault}")
    assert parts(raw.get("/raw/fine"))[1] == b"chunk"
