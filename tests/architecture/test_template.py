"""What is deployed: functions, routes, queues, schedules and layers, as template.yaml comes and with everything on."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import pytest

from tests.architecture.functions import routes_of, run_python
from tests.architecture.stack import ROOT, Resource, deployed, environment, integrations, of_type
from tests.architecture.stack import source as read

HTTP_FUNCTIONS = {
    "AccountFunction",
    "AdminFunction",
    "AuthFunction",
    "BillingFunction",
    "CatalogFunction",
    "ChatFunction",
    "HealthFunction",
    "StripeWebhookFunction",
    "HistoryFunction",
    "TrialsFunction",
}
MOST_RESOURCES = 500
"""Of a stack (https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/cloudformation-limits.html)."""


@pytest.fixture(scope="module")
def source() -> Resource:
    return read()


@pytest.fixture(scope="module", params=[False, True], ids=["as it comes", "everything"])
def resources(request: pytest.FixtureRequest) -> dict[str, Resource]:
    return deployed(whole=request.param)


def test_a_route_streams_exactly_if_its_function_runs_on_our_runtime(resources: dict[str, Resource]) -> None:
    functions = of_type(resources, "AWS::Lambda::Function")
    for function, _, path, integration in integrations(resources):
        ours = environment(functions[function]).get("AWS_LAMBDA_EXEC_WRAPPER") == "/opt/serve"
        assert (integration.get("responseTransferMode") == "STREAM") == ours, path
        assert ("response-streaming-invocations" in json.dumps(integration["uri"])) == ours, path


def test_chat_completions_stream_for_as_long_as_the_function_may_run(resources: dict[str, Resource]) -> None:
    routes = {path: (function, route) for function, _, path, route in integrations(resources)}
    function, route = routes["/v1/chat/completions"]
    timeout_s = of_type(resources, "AWS::Lambda::Function")[function]["Timeout"]
    assert route["responseTransferMode"] == "STREAM"
    assert route["timeoutInMillis"] == timeout_s * 1000 == 660_000


def test_buffered_functions_end_before_api_gateway_gives_up(resources: dict[str, Resource]) -> None:
    functions = of_type(resources, "AWS::Lambda::Function")
    for function, _, path, route in integrations(resources):
        if "responseTransferMode" not in route:
            assert functions[function]["Timeout"] < 29, path


def test_the_api_is_regional_rest(resources: dict[str, Resource]) -> None:
    (api,) = of_type(resources, "AWS::ApiGateway::RestApi").values()
    assert api["EndpointConfiguration"]["Types"] == ["REGIONAL"]
    assert api["Body"]["openapi"] == "3.0.1"


def test_refusals_of_api_gateway_have_openais_error_body(source: Resource) -> None:
    refusals = source["Resources"]["Api"]["Properties"]["GatewayResponses"]
    assert {"DEFAULT_4XX", "DEFAULT_5XX", "MISSING_AUTHENTICATION_TOKEN"} <= refusals.keys()
    for name, refusal in refusals.items():
        template = refusal["ResponseTemplates"]["application/json"]
        body = json.loads(template.replace("$context.error.messageString", '"a message"'))
        assert {"message", "type", "param", "code"} <= body["error"].keys(), name
        assert body["request_id"] == "$context.requestId", name
        assert body.get("status_code") == refusal.get("StatusCode"), name
        assert "x-request-id" in refusal["ResponseParameters"]["Headers"], name
    assert refusals["MISSING_AUTHENTICATION_TOKEN"]["StatusCode"] == 404


@pytest.mark.process
@pytest.mark.parametrize("function", sorted(HTTP_FUNCTIONS))
def test_the_apps_routes_are_the_templates_routes(resources: dict[str, Resource], function: str) -> None:
    declared = {
        (method, re.sub(r"{[^}]*}", "{}", path))
        for owner, method, path, _ in integrations(resources)
        if owner == function
    }
    handler = of_type(resources, "AWS::Lambda::Function")[function]["Handler"]
    assert declared == routes_of(handler.split(".")[0])


def test_each_function_with_a_route_is_compared_with_its_app(resources: dict[str, Resource]) -> None:
    assert {function for function, *_ in integrations(resources)} == HTTP_FUNCTIONS


@pytest.mark.process
def test_each_schedule_names_a_job(resources: dict[str, Resource]) -> None:
    schedules = of_type(resources, "AWS::Scheduler::Schedule").values()
    scheduled = {json.loads(schedule["Target"]["Input"])["job"] for schedule in schedules}
    jobs = run_python("import json; from jobs.handler import JOBS; print(json.dumps(sorted(JOBS)))")
    assert scheduled == set(json.loads(jobs))


def test_settlements_are_tried_until_booked(resources: dict[str, Resource]) -> None:
    (mapping,) = of_type(resources, "AWS::Lambda::EventSourceMapping").values()
    queue = resources[mapping["EventSourceArn"]["Fn::GetAtt"][0]]["Properties"]
    function = resources[mapping["FunctionName"]["Ref"]]["Properties"]
    assert mapping["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
    assert queue["VisibilityTimeout"] >= 6 * function["Timeout"], "AWS's advice for queues that feed a function"
    tried_for_s = queue["VisibilityTimeout"] * queue["RedrivePolicy"]["maxReceiveCount"]
    assert 86_400 <= tried_for_s < queue["MessageRetentionPeriod"]
    assert queue["RedrivePolicy"]["deadLetterTargetArn"] == {"Fn::GetAtt": ["SettlementDeadLetters", "Arn"]}


def test_each_function_has_its_own_log_that_ends(resources: dict[str, Resource]) -> None:
    logs = of_type(resources, "AWS::Logs::LogGroup")
    functions = of_type(resources, "AWS::Lambda::Function")
    (stage,) = of_type(resources, "AWS::ApiGateway::Stage").values()
    used = [function["LoggingConfig"]["LogGroup"]["Ref"] for function in functions.values()]
    used += [stage["AccessLogSetting"]["DestinationArn"]["Fn::GetAtt"][0]]
    assert sorted(used) == sorted(logs)
    assert all(log["RetentionInDays"] for log in logs.values())
    assert all(function["LoggingConfig"]["LogFormat"] == "JSON" for function in functions.values())


def test_one_python_and_one_architecture_everywhere(source: Resource, resources: dict[str, Resource]) -> None:
    version = (ROOT / ".python-version").read_text().strip()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["project"]["requires-python"] == f">={version}"
    assert source["Parameters"]["Architecture"]["Default"] == "arm64"
    chosen = [{"Ref": "Architecture"}]
    for function in of_type(resources, "AWS::Lambda::Function").values():
        assert (function["Runtime"], function["Architectures"]) == (f"python{version}", chosen)
    for layer in of_type(resources, "AWS::Lambda::LayerVersion").values():
        assert (layer["CompatibleRuntimes"], layer["CompatibleArchitectures"]) == (
            [f"python{version}"],
            chosen,
        )


def test_the_exec_wrapper_can_be_executed() -> None:
    assert (ROOT / "layers/streaming/serve").stat().st_mode & 0o111 == 0o111


@pytest.mark.parametrize("stage", ["dev", "staging", "production"])
def test_samconfig_s_parameters_are_the_template_s(source: Resource, stage: str) -> None:
    """SAM passes on whatever it is given, and CloudFormation refuses it after the upload."""
    config = tomllib.loads((ROOT / "samconfig.toml").read_text())[stage]["deploy"]["parameters"]
    given = dict(pair.split("=", 1) for pair in config["parameter_overrides"])
    assert given["Stage"] == stage
    assert config["stack_name"] == f"gatewayz-{stage}"
    for name, value in given.items():
        allowed = source["Parameters"][name].get("AllowedValues")
        assert allowed is None or value in [str(each) for each in allowed], name


def test_a_stack_has_room_left(resources: dict[str, Resource]) -> None:
    assert len(resources) < MOST_RESOURCES * 0.9


def test_every_condition_is_turned_on_by_everything(source: Resource) -> None:
    conditional = {name for name, each in source["Resources"].items() if "Condition" in each}
    assert conditional
    assert conditional <= deployed(whole=True).keys()
    assert not conditional & deployed(whole=False).keys()


def test_a_function_with_an_alias_is_published_anew_with_its_layers() -> None:
    """SAM looks at the function's own code unless told otherwise, and ours is in the layers."""
    before, after = (
        {name for name in stack if "FunctionVersion" in name}
        for stack in (deployed(whole=False), deployed(whole=False, gateway_layer="s3://bucket/another"))
    )
    assert len(before) == len(after) == 2
    assert not before & after


def test_the_api_is_made_when_it_may_write_logs(resources: dict[str, Resource]) -> None:
    (api,) = [each for each in resources.values() if each["Type"] == "AWS::ApiGateway::RestApi"]
    assert "ApiGatewayAccount" in api["DependsOn"]


def test_the_api_is_throttled_and_logs_no_path(resources: dict[str, Resource]) -> None:
    (stage,) = of_type(resources, "AWS::ApiGateway::Stage").values()
    (methods,) = stage["MethodSettings"]
    assert (methods["HttpMethod"], methods["ResourcePath"]) == ("*", "/*")
    assert {"ThrottlingRateLimit", "ThrottlingBurstLimit"} <= methods.keys()
    told = json.loads(stage["AccessLogSetting"]["Format"])
    assert not {"$context.path", "$context.requestOverride.path"} & set(told.values())


def test_what_fails_in_the_background_is_put_aside(resources: dict[str, Resource]) -> None:
    aside = {"Fn::GetAtt": ["JobDeadLetters", "Arn"]}
    schedules = of_type(resources, "AWS::Scheduler::Schedule").values()
    assert schedules
    assert all(schedule["Target"]["DeadLetterConfig"] == {"Arn": aside} for schedule in schedules)
    (config,) = of_type(resources, "AWS::Lambda::EventInvokeConfig").values()
    assert config["DestinationConfig"]["OnFailure"]["Destination"] == aside
    assert config["MaximumRetryAttempts"] == 0


def test_reserved_concurrency_leaves_what_aws_demands() -> None:
    def reserved(*, whole: bool) -> list[Any]:
        functions = of_type(deployed(whole=whole), "AWS::Lambda::Function").values()
        return [each["ReservedConcurrentExecutions"] for each in functions if "ReservedConcurrentExecutions" in each]

    assert reserved(whole=False) == [], "a new account has ten in all"
    assert len(reserved(whole=True)) == len(HTTP_FUNCTIONS) + 1
    assert sum(reserved(whole=True)) == 695
