"""What operators see of a request: its line, its metrics, its trace and its span; and what they must not see."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from gateway import spans, telemetry
from gateway.settings import load, settings
from tests.harness.gateway import CANARY, DONE, GPT, HELLO, answer, delta, eventually, finish, usage
from tests.harness.upstream import Fault, Upstream, streamed, whole

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.harness.gateway import InProcess
    from tests.harness.upstream import Reply, Request

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01", "tracestate": "vendor=1"}
GOOD = (delta("Hello"), finish(), usage(), DONE)


class Log:
    """The lines that were written, each an object."""

    def __init__(self, captured: pytest.CaptureFixture[str]) -> None:
        self._captured, self._lines = captured, list[dict[str, Any]]()

    def all(self, event: str) -> list[dict[str, Any]]:
        """Those of an event until now."""
        self._lines += [json.loads(line) for line in self._captured.readouterr().out.splitlines()]
        return [line for line in self._lines if line["event"] == event]

    async def next(self, event: str) -> dict[str, Any]:
        """The one of an event, which may be on its way yet; it is not found again."""

        async def found() -> list[dict[str, Any]]:
            return self.all(event)

        (line,) = await eventually(found)
        self._lines.remove(line)
        return line


@pytest.fixture
def log(capfd: pytest.CaptureFixture[str]) -> Log:
    return Log(capfd)


def metrics_of(line: dict[str, Any]) -> dict[str, tuple[float, str]]:
    """The metrics in a line with their units, as CloudWatch finds them."""
    (directive,) = line["_aws"]["CloudWatchMetrics"]
    assert directive["Namespace"] == "Gatewayz"
    for name, *more in directive["Dimensions"]:
        assert all(isinstance(line[dimension], str) for dimension in (name, *more))
    assert isinstance(line["_aws"]["Timestamp"], int)
    return {metric["Name"]: (line[metric["Name"]], metric["Unit"]) for metric in directive["Metrics"]}


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_a_completion_is_one_line(gateway: InProcess, upstream: Upstream, log: Log, *, stream: bool):
    gateway.connect("openrouter", upstream.url)
    upstream.will(streamed(*GOOD) if stream else whole(answer()))
    response = await gateway.ask(TRACEPARENT, model=GPT, stream=stream, messages=[{"role": "user", "content": CANARY}])
    await gateway.ended()
    line = await log.next("request")
    (record,) = await gateway.usage()
    key_id = await gateway.books.fetchval("select min(id) from gateway.api_keys where user_id = $1", gateway.user_id)
    told = {
        "level": "INFO", "request_id": response.headers["x-request-id"], "trace_id": TRACE, "user_id": gateway.user_id,
        "key_id": key_id, "method": "POST", "operation": "create_completion", "status": 200, "provider": "openrouter",
        "model": GPT, "generation": response.headers["x-generation-id"], "cost_nano": record["cost_nano"],
        "prompt_tokens": 10, "completion_tokens": 5, "outcome": "completed", "is_streamed": stream,
        "attempts_failed": 0,
    }  # fmt: skip
    assert {name: line[name] for name in told} == told
    assert line["duration_ms"] > 0
    assert metrics_of(line) == {
        "Completions": (1, "Count"),
        "CompletionCost": (record["cost_nano"] / 1e9, "None"),
        "PromptTokens": (10, "Count"),
        "CompletionTokens": (5, "Count"),
        "FirstByteTime": (line["first_byte_ms"], "Milliseconds"),
    }
    assert line["Stage"] == "dev"
    assert CANARY not in json.dumps(line)
    assert gateway.key not in json.dumps(line)


async def test_a_failed_attempt_counts_for_its_provider(gateway: InProcess, upstream: Upstream, log: Log):
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(b"{}", 500))
    assert (await gateway.ask(model=GPT)).status_code == 502
    await gateway.ended()
    attempt, request = await log.next("attempt_failed"), await log.next("request")
    assert metrics_of(attempt) == {"AttemptsFailed": (1, "Count")}
    assert attempt["Provider"] == "openrouter"
    assert attempt["_aws"]["CloudWatchMetrics"][0]["Dimensions"] == [["Stage", "Provider"]]
    assert attempt["request_id"] == request["request_id"]
    assert metrics_of(request) == {"CompletionsFailed": (1, "Count")}
    assert (request["outcome"], request["status"], request["code"]) == ("failed", 502, "provider_error")


async def test_what_a_provider_calls_invalid_is_no_failure_of_ours(gateway: InProcess, upstream: Upstream, log: Log):
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(b"{}", 400))
    assert (await gateway.ask(model=GPT)).status_code == 400
    await gateway.ended()
    line = await log.next("request")
    assert (line["outcome"], "_aws" in line) == ("released", False)


async def test_any_request_is_one_line(gateway: InProcess, log: Log):
    await gateway.client.get("/v1/key", headers=gateway.headers())
    line = await log.next("request")
    assert (line["operation"], line["status"], line["user_id"]) == ("get_key", 200, gateway.user_id)
    await gateway.client.get("/user/api-keys/nothing", headers=gateway.headers())
    line = await log.next("request")
    assert (line["status"], line["code"]) == (422, "unprocessable")


@pytest.mark.parametrize("path", ["/v1/models/{}", "/nowhere/{}", "/user/api-keys/{}", "/v1/key?{}"])
async def test_no_path_is_logged(gateway: InProcess, log: Log, path: str):
    await gateway.client.get(path.format(gateway.key), headers=gateway.headers())
    assert gateway.key not in json.dumps(await log.next("request"))
    assert gateway.key not in json.dumps(log.all("request"))


async def test_a_refusal_without_a_key_is_told_too(gateway: InProcess, log: Log):
    response = await gateway.client.post("/v1/chat/completions", json={})
    line = await log.next("request")
    assert (line["status"], line["code"], line["operation"]) == (401, "invalid_api_key", "create_completion")
    assert line["request_id"] == response.headers["x-request-id"]
    assert "user_id" not in line


async def test_a_provider_is_told_the_trace(gateway: InProcess, upstream: Upstream):
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(answer()))
    await gateway.ask(TRACEPARENT, model=GPT)
    (asked,) = upstream.requests
    version, trace_id, span_id, flags = asked.headers["traceparent"].split("-")
    assert (version, trace_id, flags, asked.headers["tracestate"]) == ("00", TRACE, "01", "vendor=1")
    assert span_id != PARENT
    twice = [*gateway.headers(TRACEPARENT).items(), ("traceparent", f"00-{'1' * 32}-{'2' * 16}-01")]
    await gateway.client.post("/v1/chat/completions", headers=twice, json={"model": GPT, "messages": HELLO})
    assert TRACE not in upstream.requests[1].headers["traceparent"], "of two, neither is believed"


@pytest.mark.parametrize(("level", "written"), [("DEBUG", 5), ("INFO", 4), ("ERROR", 2), ("CRITICAL", 1)])
def test_lines_below_the_level_are_not_written(monkeypatch: pytest.MonkeyPatch, log: Log, level: str, written: int):
    monkeypatch.setattr(telemetry, "settings", msgspec.structs.replace(settings, log_level=level))
    for each in ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"):
        telemetry.log("any", level=each)
    assert len(log.all("any")) == written


def test_a_line_with_metrics_is_always_written(monkeypatch: pytest.MonkeyPatch, log: Log):
    monkeypatch.setattr(telemetry, "settings", msgspec.structs.replace(settings, log_level="CRITICAL"))
    telemetry.log("any", metrics={"Completions": 1})
    assert len(log.all("any")) == 1


def test_a_meter_takes_the_metrics(monkeypatch: pytest.MonkeyPatch, log: Log):
    taken: list[Any] = []
    monkeypatch.setattr(telemetry, "_meters", [])
    telemetry.meter_with(lambda *given: taken.append(given))
    telemetry.log("any", metrics={"AttemptsFailed": 1}, dimensions={"Provider": "chutes"})
    assert taken == [({"AttemptsFailed": 1}, {"Provider": "chutes"})]
    (line,) = log.all("any")
    assert line.keys() == {"timestamp", "level", "event"}


@pytest.fixture
async def collector(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Upstream]:
    """A collector of spans, which the settings name."""
    async with Upstream().open() as double:
        named = {"OTEL_EXPORTER_OTLP_ENDPOINT": double.url, "OTEL_EXPORTER_OTLP_HEADERS": "X-Key=of%20ours"}
        environ = {"STAGE": "dev", "DATABASE_URL": "postgresql://x", "KEY_PEPPERS": "v1:a-pepper-for-tests-only"}
        exporter = load(environ | named).exporter
        monkeypatch.setattr(spans, "settings", msgspec.structs.replace(settings, exporter=exporter))
        double.will(whole(b"{}"))
        yield double


async def sent_to(collector: Upstream) -> Request:
    """The one request that it gets, which may be on its way yet."""

    async def found() -> list[Request]:
        return collector.requests

    (request,) = await eventually(found)
    return request


async def test_a_completion_is_a_span_in_opentelemetry_s_words(
    gateway: InProcess, upstream: Upstream, collector: Upstream
):
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(answer()))
    response = await gateway.ask(TRACEPARENT, model=GPT, messages=[{"role": "user", "content": CANARY}])
    sent = await sent_to(collector)
    assert (sent.path, sent.headers["x-key"]) == ("/v1/traces", "of ours")
    assert CANARY not in sent.body.decode()
    json_format.Parse(sent.body, ExportTraceServiceRequest())  # raises on a member that the protocol does not have
    (span,) = json.loads(sent.body)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert (span["traceId"], span["parentSpanId"], span["name"], span["kind"]) == (TRACE, PARENT, f"chat {GPT}", 3)
    assert span["spanId"] == upstream.requests[0].headers["traceparent"].split("-")[2]
    assert int(span["startTimeUnixNano"]) < int(span["endTimeUnixNano"])
    attributes = {each["key"]: each["value"] for each in span["attributes"]}
    assert attributes["gen_ai.operation.name"] == {"stringValue": "chat"}
    assert attributes["gen_ai.provider.name"] == {"stringValue": "openrouter"}
    assert attributes["gen_ai.response.id"] == {"stringValue": response.headers["x-generation-id"]}
    assert attributes["gen_ai.usage.input_tokens"] == {"intValue": "10"}
    assert attributes["gen_ai.usage.output_tokens"] == {"intValue": "5"}
    assert attributes["gen_ai.response.finish_reasons"] == {"arrayValue": {"values": [{"stringValue": "stop"}]}}


async def test_a_failure_is_a_failed_span(gateway: InProcess, upstream: Upstream, collector: Upstream):
    gateway.connect("openrouter", upstream.url)
    upstream.will(whole(b"{}", 500))
    await gateway.ask(model=GPT)
    (span,) = json.loads((await sent_to(collector)).body)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    assert span["status"] == {"code": 2}
    assert {"key": "error.type", "value": {"stringValue": "provider_error"}} in span["attributes"]


async def test_who_is_not_sampled_sends_no_span(gateway: InProcess, collector: Upstream, log: Log):
    await gateway.ask({"traceparent": f"00-{TRACE}-{PARENT}-00"})
    await log.next("request")
    assert collector.requests == []


@pytest.mark.parametrize("reply", [whole(b"{}", 500), (Fault.RESET,)], ids=["refuses", "hangs up"])
async def test_a_collector_that_takes_nothing_costs_a_span(
    gateway: InProcess, collector: Upstream, log: Log, reply: Reply
):
    collector.will(reply)
    response = await gateway.ask()
    assert response.status_code == 200
    assert await gateway.ended() == ["settled"]
    assert (await log.next("span_not_sent"))["level"] == "WARNING"
