"""The core of test_streaming on AWS's own Runtime API."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.harness.rie import Emulated, parts

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
TIMEOUT_S = 3

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform != "linux", reason="the emulator is a Linux program"),
]


class Served(Emulated):
    """A function of this folder, on our runtime."""

    def __init__(self, handler: str) -> None:
        super().__init__(
            (sys.executable, "-m", "gateway.http.streaming", handler),
            HERE / "functions",
            {
                "PYTHONPATH": f"{HERE / 'functions'}:{ROOT / 'shared'}",
                "AWS_LAMBDA_FUNCTION_TIMEOUT": str(TIMEOUT_S),
            },
        )

    def get(self, path: str, method: str = "GET", body: str | None = None, **query: str) -> httpx.Response:
        return self.invoke(
            {
                "resource": "/{rest+}",
                "path": path,
                "httpMethod": method,
                "headers": None,
                "multiValueHeaders": None,
                "multiValueQueryStringParameters": {name: [value] for name, value in query.items()},
                "requestContext": {"identity": {"sourceIp": "192.0.2.7"}},
                "body": body,
            }
        )


def started(handler: str) -> Iterator[Served]:
    emulated = Served(handler)
    yield emulated
    emulated.stop()


@pytest.fixture(scope="module")
def stream() -> Iterator[Served]:
    yield from started("stream.handler.handler")


@pytest.fixture(scope="module")
def raw() -> Iterator[Served]:
    yield from started("raw.handler.handler")


def test_a_stream_has_prelude_and_body(stream: Served):
    metadata, body = parts(stream.get("/stream/events"))
    assert metadata["statusCode"] == 200
    assert metadata["headers"] == {"content-type": "text/event-stream; charset=utf-8"}
    assert body == b"data: 0\n\ndata: 1\n\ndata: 2\n\n"


def test_cookies_are_apart(stream: Served):
    metadata, _ = parts(stream.get("/stream/cookies"))
    assert [cookie.partition(";")[0] for cookie in metadata["cookies"]] == ["a=1", "b=2"]
    assert metadata["headers"]["vary"] == "origin, accept"


def test_a_request_body_arrives(stream: Served):
    assert parts(stream.get("/stream/echo", "POST", "text"))[1] == b"text"


@pytest.mark.parametrize(("status", "body"), [("200", b"\n"), ("204", b"")])
def test_a_response_without_a_body(stream: Served, status: str, body: bytes):
    assert parts(stream.get("/stream/empty", status=status)) == (
        {"statusCode": int(status), "headers": {}, "cookies": []},
        body,
    )


def test_work_after_the_answer_is_done_before_the_next(stream: Served, tmp_path: Path):
    gate, done = tmp_path / "gate", tmp_path / "done"
    gate.touch()
    assert parts(stream.get("/stream/background", gate=str(gate), done=str(done)))[1] == b"answered"
    parts(stream.get("/stream/scope"))
    assert done.exists()


@pytest.mark.parametrize("text", ["x", "\0", '"', "\N{GRINNING FACE}"])
def test_an_error_in_mid_stream_spares_the_environment(stream: Served, text: str):
    before = json.loads(parts(stream.get("/stream/scope"))[1])
    stream.get("/stream/mid_stream", text=text)
    after = json.loads(parts(stream.get("/stream/scope"))[1])
    assert after["pid"] == before["pid"]


def test_the_app_is_cancelled_before_its_deadline(stream: Served, tmp_path: Path):
    before = json.loads(parts(stream.get("/stream/scope"))[1])
    done = tmp_path / "done"
    stream.get("/stream/endless", done=str(done))
    after = json.loads(parts(stream.get("/stream/scope"))[1])
    assert done.exists()
    assert after["pid"] == before["pid"]


@pytest.mark.parametrize(
    ("fault", "kind"), [("silent", "RuntimeError"), ("raises", "ValueError"), ("cancelled", "CancelledError")]
)
def test_an_error_before_the_first_byte_is_reported(raw: Served, fault: str, kind: str):
    assert raw.get(f"/raw/{fault}").json()["errorType"] == kind
    assert parts(raw.get("/raw/fine"))[1] == b"chunk"


@pytest.mark.parametrize("fault", ["unfinished", "twice"])
def test_a_response_that_is_not_ended_spares_the_environment(raw: Served, fault: str):
    raw.get(f"/raw/{fault}")
    assert parts(raw.get("/raw/fine"))[1] == b"chunk"
