"""What is deployed: template.yaml as CloudFormation gets it, after SAM's transformation."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from samcli.yamlhelper import yaml_parse
from samtranslator.translator.transform import transform

from tests.architecture.functions import routes_of, run_python

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
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
type Resource = dict[str, Any]


class NoManagedPolicies:
    """What SAM would ask IAM for; the template names no managed policy by its short name."""

    def load(self) -> dict[str, str]:
        return {}


@pytest.fixture(scope="module")
def source() -> Resource:
    parsed: Resource = yaml_parse((ROOT / "template.yaml").read_text())
    return parsed


@pytest.fixture(scope="module")
def resources(source: Resource) -> dict[str, Resource]:
    """The resources after the transformation, offline. `sam deploy` puts S3 addresses for the code's paths."""
    template = json.loads(json.dumps(source))
    template["Globals"]["Function"]["CodeUri"] = "s3://bucket/key"
    for resource in template["Resources"].values():
        if "ContentUri" in resource.get("Properties", {}):
            resource["Properties"]["ContentUri"] = "s3://bucket/key"
    parameters = {name: each.get("Default", "") for name, each in template["Parameters"].items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        transformed: dict[str, Resource] = transform(template, parameters, NoManagedPolicies())["Resources"]
    return transformed


def of_type(resources: dict[str, Resource], kind: str) -> dict[str, Resource]:
    return {name: each["Properties"] for name, each in resources.items() if each["Type"] == kind}


def integrations(resources: dict[str, Resource]) -> Iterator[tuple[str, str, str, Resource]]:
    """(function, method, path, integration) of each route of the API."""
    (api,) = of_type(resources, "AWS::ApiGateway::RestApi").values()
    for path, methods in api["Body"]["paths"].items():
        for method, operation in methods.items():
            integration = operation["x-amazon-apigateway-integration"]
            (function,) = re.findall(r"\$\{(\w+)\.Arn\}", json.dumps(integration["uri"]))
            yield function, method.upper(), path, integration


def environment(function: Resource) -> dict[str, Any]:
    variables: dict[str, Any] = function["Environment"]["Variables"]
    return variables


def statements(role: Resource) -> Iterator[Resource]:
    for policy in role.get("Policies", []):
        listed = policy["PolicyDocument"]["Statement"]
        yield from listed if isinstance(listed, list) else [listed]


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


def test_each_schedule_names_a_job(resources: dict[str, Resource]) -> None:
    schedules = of_type(resources, "AWS::Scheduler::Schedule").values()
    scheduled = {json.loads(schedule["Target"]["Input"])["job"] for schedule in schedules}
    jobs = run_python("import json; from jobs.handler import JOBS; print(json.dumps(sorted(JOBS)))")
    assert scheduled == set(json.loads(jobs))


def test_no_policy_allows_more_than_it_names(resources: dict[str, Resource]) -> None:
    roles = of_type(resources, "AWS::IAM::Role")
    assert len(roles) >= len(of_type(resources, "AWS::Lambda::Function"))
    for name, role in roles.items():
        for statement in statements(role):
            assert statement["Effect"] == "Allow"
            assert "*" not in json.dumps([statement["Action"], statement["Resource"]]), name
        for managed in role.get("ManagedPolicyArns", []):
            assert "service-role/AWSLambdaBasicExecutionRole" in json.dumps(managed), name


def test_only_chat_reads_the_providers_keys(resources: dict[str, Resource]) -> None:
    readers = {
        name
        for name, role in of_type(resources, "AWS::IAM::Role").items()
        if "ProvidersSecret" in json.dumps(list(statements(role)))
    }
    told = {
        name
        for name, function in of_type(resources, "AWS::Lambda::Function").items()
        if "PROVIDERS_SECRET_ARN" in environment(function)
    }
    assert (readers, told) == ({"ChatFunctionRole"}, {"ChatFunction"})


def test_each_function_reads_the_core_secret_and_knows_its_stage(resources: dict[str, Resource]) -> None:
    roles = of_type(resources, "AWS::IAM::Role")
    for name, function in of_type(resources, "AWS::Lambda::Function").items():
        assert {"STAGE", "CORE_SECRET_ARN"} <= environment(function).keys(), name
        role = roles[function["Role"]["Fn::GetAtt"][0]]
        assert "CoreSecret" in json.dumps(list(statements(role))), name


def test_secrets_are_made_empty_and_kept(resources: dict[str, Resource]) -> None:
    for name in ("CoreSecret", "ProvidersSecret"):
        assert resources[name]["Properties"]["SecretString"] == "{}"
        assert resources[name]["DeletionPolicy"] == resources[name]["UpdateReplacePolicy"] == "Retain"


def test_each_queue_is_kept_encrypted_and_has_a_policy(resources: dict[str, Resource]) -> None:
    queues = of_type(resources, "AWS::SQS::Queue")
    covered = {
        queue["Ref"] for policy in of_type(resources, "AWS::SQS::QueuePolicy").values() for queue in policy["Queues"]
    }
    assert covered == set(queues)
    for name, queue in queues.items():
        assert queue["SqsManagedSseEnabled"], name
        assert resources[name]["DeletionPolicy"] == "Retain", name


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
    used = [function["LoggingConfig"]["LogGroup"]["Ref"] for function in functions.values()]
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
