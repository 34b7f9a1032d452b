"""The local Lambda: routing and events of API Gateway, environments, schedules, queues, and reload."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3
import httpx
import pytest
from botocore.config import Config

from local.aws_lambda import LocalLambda
from local.cloudformation import Stack, Unresolved
from local.invocation import FunctionError
from local.schedules import UnsupportedSchedule, period_s, repeat
from local.template import Schedule, load
from tests.runtime.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.process

pytestmark = pytest.mark.asyncio(loop_scope="module")
HERE = Path(__file__).parent
TEMPLATE = HERE / "template.yaml"


async def test_a_buffered_group_runs_on_the_stock_runtime(client: httpx.AsyncClient):
    seen = [(await client.get("/things/any")).json() for _ in range(3)]
    assert {response["thing"] for response in seen} == {"any"}
    assert len({(response["pid"], response["loop"]) for response in seen}) == 1


@pytest.mark.parametrize(
    ("path", "resource", "parameters", "model"),
    [
        ("/models/gpt", "/models/{id+}", {"id": "gpt"}, "gpt"),
        ("/models/openai/gpt", "/models/{id+}", {"id": "openai/gpt"}, "openai/gpt"),
        ("/models/openai%2Fgpt", "/models/{id+}", {"id": "openai/gpt"}, "openai/gpt"),
        ("/models/openai%252Fgpt", "/models/{id+}", {"id": "openai%2Fgpt"}, "openai%2Fgpt"),
    ],
)
async def test_greedy_paths(
    client: httpx.AsyncClient, path: str, resource: str, parameters: dict[str, str], model: str
):
    seen = (await client.get(path)).json()
    assert seen["model"] == model
    assert (seen["event"]["path"], seen["event"]["resource"]) == (path, resource)
    assert seen["event"]["pathParameters"] == parameters


async def test_the_event_is_api_gateways(client: httpx.AsyncClient):
    response = await client.post(
        "/models/gpt?a=1&a=2&b=",
        headers=[("X-Twice", "1"), ("X-Twice", "2"), ("X-Forwarded-For", "203.0.113.1")],
        content=b"{}",
    )
    event = response.json()["event"]
    assert (event["httpMethod"], event["body"], event["isBase64Encoded"]) == ("POST", "{}", False)
    assert event["multiValueHeaders"]["X-Twice"] == ["1", "2"]
    assert event["headers"]["X-Twice"] == "2"
    assert event["multiValueHeaders"]["X-Forwarded-For"] == ["203.0.113.1", "127.0.0.1"]
    assert event["multiValueQueryStringParameters"] == {"a": ["1", "2"], "b": [""]}
    assert event["queryStringParameters"] == {"a": "2", "b": ""}
    context = event["requestContext"]
    assert context["identity"]["sourceIp"] == "127.0.0.1"
    assert (context["resourcePath"], context["path"]) == ("/models/{id+}", "/local/models/gpt")
    assert context["domainName"] == "localhost"
    assert context["requestId"]
    binary = await client.post("/models/gpt", content=b"\0\xff")
    assert (binary.json()["event"]["body"], binary.json()["event"]["isBase64Encoded"]) == ("AP8=", True)


@pytest.mark.parametrize(
    ("path", "resource"),
    [
        ("/models/special/gpt", "/models/special/{id}"),
        ("/models/special/openai/gpt", "/models/{id+}"),
        ("/models/special", "/models/{id+}"),
    ],
)
async def test_the_most_specific_resource_wins(client: httpx.AsyncClient, path: str, resource: str):
    assert (await client.get(path)).json()["event"]["requestContext"]["resourcePath"] == resource


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/nothing"), ("POST", "/things/first"), ("GET", "/models"), ("GET", "//things/first")]
)
async def test_what_has_no_route_is_refused_in_the_templates_words(client: httpx.AsyncClient, method: str, path: str):
    response = await client.request(method, f"{client.base_url}{path}".replace(f"/{path}", path))
    assert response.status_code == 404
    assert response.json()["error"] == {"code": "not_found"}
    assert response.json()["request_id"]


async def test_a_body_over_10_mb_is_refused(client: httpx.AsyncClient):
    response = await client.post("/models/gpt", content=bytes(10 * 1024 * 1024 + 1))
    assert (response.status_code, response.json()) == (413, {"message": "Request Too Long"})


@pytest.mark.parametrize("fault", ["crash", "slow"])
async def test_a_function_that_dies_is_a_502_and_replaced(client: httpx.AsyncClient, fault: str):
    before = (await client.get("/things/any")).json()["pid"]
    response = await client.get(f"/things/{fault}")
    assert response.status_code == 502
    assert response.json() == {"error": {"message": "Internal server error", "code": "internal_error"}}
    assert response.headers["x-request-id"]
    assert (await client.get("/things/any")).json()["pid"] != before


async def test_variables_come_from_template_and_caller(client: httpx.AsyncClient):
    assert (await client.get("/models/x")).json()["variables"] == {
        "STAGE": "dev",
        "QUEUE_NAME": "WorkQueue",
        "KIND": "a-dev-stack",
        "SECRET_ARN": None,
        "EXTRA": "given",
    }


async def test_each_invocation_at_once_has_a_process_that_is_kept(
    aws: LocalLambda, client: httpx.AsyncClient, gate: Path
):
    parameters = {"wait": "0", "gate": str(gate)}
    requests = [asyncio.create_task(client.get("/stream/events", params=parameters)) for _ in range(3)]
    pool = aws.pools["StreamFunction"]
    await until(lambda: sum(len(environment.api.running) for environment in pool.environments) == 3)
    pids = {environment.process.pid for environment in pool.environments if environment.process}
    assert len(pids) == 3
    gate.touch()
    assert {(await request).status_code for request in requests} == {200}
    assert (await client.get("/stream/scope")).json()["pid"] in pids


async def test_a_function_can_be_invoked_by_name(aws: LocalLambda, tmp_path: Path):
    lines = tmp_path / "lines"
    record = {"messageId": "1", "attributes": {"ApproximateReceiveCount": "1"}}
    record["body"] = json.dumps({"file": str(lines), "name": "one", "fail": "report"})
    result = await aws.invoke("QueueFunction", {"Records": [record]})
    assert result == {"batchItemFailures": [{"itemIdentifier": "1"}]}
    with pytest.raises(FunctionError, match="KeyError"):
        await aws.invoke("QueueFunction", {})


@pytest.fixture
def sqs(aws: LocalLambda) -> Iterator[Any]:
    client = boto3.client("sqs", **boto3_options(aws))
    yield client
    client.close()


def boto3_options(aws: LocalLambda) -> dict[str, Any]:
    return {
        "endpoint_url": aws.address,
        "region_name": "us-east-1",
        "aws_access_key_id": "local",
        "aws_secret_access_key": "local",
        "config": Config(proxies={}, retries={"total_max_attempts": 1}),
    }


async def test_boto3_invokes_functions(aws: LocalLambda):
    client = boto3.client("lambda", **boto3_options(aws))
    reply = await asyncio.to_thread(client.invoke, FunctionName="QueueFunction", Payload=b'{"Records": []}')
    assert json.load(reply["Payload"]) == {"batchItemFailures": []}
    failed = await asyncio.to_thread(client.invoke, FunctionName="QueueFunction", Payload=b"{}")
    assert failed["FunctionError"] == "Unhandled"
    assert json.load(failed["Payload"])["errorType"] == "KeyError"
    with pytest.raises(client.exceptions.ResourceNotFoundException):
        await asyncio.to_thread(client.invoke, FunctionName="Nothing")
    client.close()


async def send(aws: LocalLambda, sqs: Any, **message: str) -> None:
    url = f"{aws.address}/000000000000/WorkQueue"
    sent = await asyncio.to_thread(sqs.send_message, QueueUrl=url, MessageBody=json.dumps(message))
    assert sent["MessageId"]


async def test_a_queue_delivers_what_boto3_sent(aws: LocalLambda, sqs: Any, done: Path):
    await send(aws, sqs, file=str(done), name="one")
    await until(lambda: done.exists() and not len(aws.sqs.queues["WorkQueue"]))
    assert done.read_text() == "one 1\n"


@pytest.mark.parametrize("fail", ["once"])
async def test_a_failed_message_comes_again_and_alone(aws: LocalLambda, sqs: Any, done: Path, fail: str):
    await send(aws, sqs, file=str(done), name="one", fail=fail)
    await send(aws, sqs, file=str(done), name="two")
    await until(lambda: done.exists() and not len(aws.sqs.queues["WorkQueue"]))
    assert sorted(done.read_text().splitlines()) == ["one 1", "one 2", "two 1"]


@pytest.mark.parametrize("fail", ["report", "raise"])
async def test_a_message_that_fails_for_ever_is_put_aside(aws: LocalLambda, sqs: Any, done: Path, fail: str):
    dead = aws.sqs.queues["DeadLetters"]
    before = len(dead)
    await send(aws, sqs, file=str(done), name="one", fail=fail)
    await until(lambda: len(dead) == before + 1)
    assert done.read_text() == "one 1\none 2\n"
    assert not len(aws.sqs.queues["WorkQueue"])


async def test_what_sqs_does_not_know_is_refused(aws: LocalLambda, sqs: Any):
    with pytest.raises(sqs.exceptions.QueueDoesNotExist):
        await asyncio.to_thread(sqs.send_message, QueueUrl=f"{aws.address}/0/Nothing", MessageBody="x")
    with pytest.raises(sqs.exceptions.UnsupportedOperation):
        await asyncio.to_thread(sqs.purge_queue, QueueUrl=f"{aws.address}/0/WorkQueue")


async def test_messages_outlive_a_restart(tmp_path: Path, done: Path):
    first = LocalLambda(TEMPLATE, {}, tmp_path)
    await first.start()
    first.sqs.queues["WorkQueue"].add(json.dumps({"file": str(done), "name": "one"}), delay_s=0.2)
    await first.stop()
    assert not done.exists()
    second = LocalLambda(TEMPLATE, {}, tmp_path)
    await second.start()
    await until(done.exists)
    await second.stop()


@pytest.mark.parametrize(
    ("expression", "seconds"),
    [("rate(1 minute)", 60), ("rate(5 minutes)", 300), ("rate(2 hours)", 7200), ("rate(1 day)", 86_400)],
)
async def test_rates(expression: str, seconds: int):
    assert period_s(expression) == seconds


@pytest.mark.parametrize(
    "expression", ["cron(0 0 * * ? *)", "at(2030-01-01T00:00:00)", "rate(15 minuts)", "rate(0 minutes)", "rate(minute)"]
)
async def test_other_schedules_are_refused(expression: str):
    with pytest.raises(UnsupportedSchedule):
        period_s(expression)


async def test_a_schedule_invokes_with_its_own_input(aws: LocalLambda, done: Path):
    body = json.dumps({"file": str(done), "name": "one"})
    event = {"Records": [{"messageId": "1", "body": body, "attributes": {"ApproximateReceiveCount": "1"}}]}
    schedule = Schedule("Often", "rate(1 minute)", "QueueFunction", json.dumps(event))
    failing = Schedule("Failing", "rate(1 minute)", "QueueFunction", "{}")
    log: list[str] = []
    tasks = [
        asyncio.create_task(repeat(each, 0.01, aws.invoke, lambda _, line: log.append(line)))
        for each in (schedule, failing)
    ]
    await until(lambda: done.exists() and len(done.read_text().splitlines()) >= 2)
    await until(lambda: len(log) >= 2)
    assert "schedule Failing failed: KeyError" in log[0]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_the_template_names_its_schedules():
    schedules = load(TEMPLATE, "http://127.0.0.1:1").schedules
    assert schedules == [Schedule("BufferedFunctionHourly", "rate(1 hour)", "BufferedFunction", '{"job": "sweep"}')]


async def test_intrinsic_functions():
    document = {
        "Parameters": {"Size": {"Default": "big"}, "Open": {"Type": "String"}},
        "Conditions": {"Big": {"Fn::Equals": [{"Ref": "Size"}, "big"]}, "Small": {"Fn::Not": [{"Condition": "Big"}]}},
        "Mappings": {"Sizes": {"big": {"mb": 512}}},
    }
    stack = Stack(document, {"Queue": "url", "Queue.Arn": "arn"})
    assert stack.resolve({"Fn::Sub": "${Size}-${Queue.Arn}-${!Size}-${AWS::Region}"}) == "big-arn-${Size}-us-east-1"
    assert stack.resolve({"Fn::Sub": ["${x}", {"x": {"Ref": "Queue"}}]}) == "url"
    assert stack.resolve({"Fn::If": ["Small", 1, {"Fn::GetAtt": "Queue.Arn"}]}) == "arn"
    assert stack.resolve({"Fn::Join": ["-", ["a", {"Fn::Select": [1, {"Fn::Split": [",", "a,b"]}]}]]}) == "a-b"
    assert stack.resolve({"Fn::FindInMap": ["Sizes", {"Ref": "Size"}, "mb"]}) == 512
    assert stack.resolve({"a": {"Ref": "AWS::NoValue"}, "b": [{"Ref": "AWS::NoValue"}, 1]}) == {"b": [1]}
    for unknown in ({"Ref": "Open"}, {"Fn::GetAtt": ["Queue", "Age"]}, {"Fn::ImportValue": "x"}):
        with pytest.raises(Unresolved):
            stack.resolve(unknown)


async def test_changed_source_serves_the_next_invocation_and_spares_the_running_one(tmp_path: Path, gate: Path):
    shutil.copytree(HERE / "functions", tmp_path / "functions", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(TEMPLATE, tmp_path)
    log: list[str] = []
    aws = LocalLambda(tmp_path / "template.yaml", {}, tmp_path / "data", lambda _, line: log.append(line))
    async with httpx.AsyncClient(base_url=await aws.start(), timeout=30, trust_env=False) as client:
        parameters = {"wait": "0", "gate": str(gate)}
        running = asyncio.create_task(client.get("/stream/events", params=parameters))
        await until(lambda: [e for e in aws.pools["StreamFunction"].environments if e.api.running])
        assert (await client.get("/things/first")).json() == {"thing": "the first"}
        source = tmp_path / "functions/buffered/handler.py"
        # The watcher starts with its own thread, some time after the server does.
        while not [line for line in log if "handler.py changed" in line]:
            source.write_text(source.read_text().replace("the first", "a new one") + "\n")
            await asyncio.sleep(0.1)
        assert (await client.get("/things/first")).json() == {"thing": "a new one"}
        gate.touch()
        assert (await running).text == "data: 0\n\ndata: 1\n\ndata: 2\n\n"
        await until(lambda: not aws.pools["StreamFunction"].environments)
        await aws.stop()


PARENT = """
import asyncio, json, pathlib, sys
from local.aws_lambda import LocalLambda
from tests.runtime.waiting import until

async def main(template, data, done):
    aws = LocalLambda(pathlib.Path(template), {}, pathlib.Path(data))
    await aws.start()
    aws.sqs.queues["WorkQueue"].add(json.dumps({"file": done, "name": "one", "fail": "hang"}))
    await until(pathlib.Path(done).exists)
    print(aws.pools["QueueFunction"].environments[0].process.pid, flush=True)
    await asyncio.Event().wait()

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks /proc")
async def test_a_busy_function_dies_with_the_process_that_started_it(tmp_path: Path, done: Path):
    parent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", PARENT, TEMPLATE, tmp_path, done),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
        cwd=HERE.parents[1],
    )
    assert parent.stdout
    pid = int(await parent.stdout.readline())
    assert is_alive(pid)
    parent.kill()
    await parent.wait()
    await until(lambda: not is_alive(pid))


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # Where nobody collects orphans, as in a container without an init, a dead one stays as a zombie.
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except (ProcessLookupError, FileNotFoundError):
        return False


async def test_stop_ends_every_process_and_what_is_running(tmp_path: Path, gate: Path):
    aws = LocalLambda(TEMPLATE, {}, tmp_path)
    async with httpx.AsyncClient(base_url=await aws.start(), timeout=30, trust_env=False) as client:
        running = asyncio.create_task(client.get("/stream/events", params={"wait": "0", "gate": str(gate)}))
        await until(lambda: [e for e in aws.pools["StreamFunction"].environments if e.api.running])
        pid = aws.pools["StreamFunction"].environments[0].process
        await aws.stop()
        with pytest.raises(httpx.HTTPError):
            await running
    assert pid
    assert pid.returncode == 0, "our runtime ends in order on SIGTERM"
