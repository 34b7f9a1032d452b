"""Who may do what in AWS: each function its own, and nothing that is not named."""

from __future__ import annotations

import json
import re

import pytest

from tests.architecture.stack import Resource, deployed, environment, of_type, statements

MANAGED = {"service-role/AWSLambdaBasicExecutionRole", "service-role/AmazonAPIGatewayPushToCloudWatchLogs"}
"""AWS's own policies that may be attached: both do no more than write logs."""


@pytest.fixture(scope="module", params=[False, True], ids=["as it comes", "everything"])
def resources(request: pytest.FixtureRequest) -> dict[str, Resource]:
    return deployed(whole=request.param)


def test_no_policy_allows_more_than_it_names(resources: dict[str, Resource]) -> None:
    roles = of_type(resources, "AWS::IAM::Role")
    assert len(roles) >= len(of_type(resources, "AWS::Lambda::Function"))
    for name, role in roles.items():
        for statement in statements(role):
            assert statement["Effect"] == "Allow"
            assert "*" not in json.dumps([statement["Action"], statement["Resource"]]), name
        for managed in role.get("ManagedPolicyArns", []):
            (policy,) = re.findall(r"policy/(service-role/\w+)", json.dumps(managed))
            assert policy in MANAGED, name


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


def test_each_function_has_a_role_of_its_own(resources: dict[str, Resource]) -> None:
    functions = of_type(resources, "AWS::Lambda::Function")
    roles = [function["Role"]["Fn::GetAtt"][0] for function in functions.values()]
    assert len(set(roles)) == len(functions)


def test_each_function_alone_reads_its_login() -> None:
    resources = deployed(whole=True)
    roles = of_type(resources, "AWS::IAM::Role")
    functions = of_type(resources, "AWS::Lambda::Function")
    for name, function in functions.items():
        login = name.replace("Function", "Login")
        assert environment(function)["LOGIN_SECRET_ARN"] == {"Ref": login}
        readers = [role for role in roles if f'"{login}"' in json.dumps(list(statements(roles[role])))]
        assert readers == [function["Role"]["Fn::GetAtt"][0]]
    assert not any(
        "LOGIN_SECRET_ARN" in environment(each)
        for each in of_type(deployed(whole=False), "AWS::Lambda::Function").values()
    )


def test_resources_are_open_to_this_account_alone(resources: dict[str, Resource]) -> None:
    """A queue's or a topic's policy names services, and them for this account; what names everybody refuses."""
    kinds = ("AWS::SQS::QueuePolicy", "AWS::SNS::TopicPolicy")
    listed = [each for kind in kinds for each in of_type(resources, kind).values()]
    for policy in listed:
        for statement in policy["PolicyDocument"]["Statement"]:
            if statement["Effect"] == "Allow":
                assert statement["Principal"].keys() == {"Service"}
                assert statement["Condition"] == {"StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}}}
                assert "*" not in json.dumps([statement["Action"], statement["Resource"]])


def test_a_rule_s_dead_letters_are_let_in() -> None:
    resources = deployed(whole=True)
    rules = of_type(resources, "AWS::Events::Rule")
    assert rules
    for rule in rules.values():
        for target in rule["Targets"]:
            queue = target["DeadLetterConfig"]["Arn"]["Fn::GetAtt"][0]
            policies = of_type(resources, "AWS::SQS::QueuePolicy").values()
            (policy,) = [each for each in policies if each["Queues"] == [{"Ref": queue}]]
            assert '"events.amazonaws.com"' in json.dumps(policy)
