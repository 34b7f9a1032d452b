"""template.yaml as CloudFormation gets it: after SAM's transformation, with what its parameters leave in."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from samcli.yamlhelper import yaml_parse
from samtranslator.translator.transform import transform

from local.cloudformation import Stack

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
EVERYTHING = {
    "DomainName": "api.example.com", "CertificateArn": "arn:aws:acm:us-east-1:000000000000:certificate/c",
    "HostedZoneId": "Z0", "Firewall": "true", "SnapStart": "true", "ReservedConcurrency": "true",
    "SeparateLogins": "true", "AlarmEmail": "ops@example.com", "MonthlyBudgetUsd": "100",
    "CollectorUrl": "https://otel.example.com",
}  # fmt: skip
"""Parameters that turn every condition on."""
CODE = "s3://bucket/key"
NOTHING = object()
type Resource = dict[str, Any]


class NoManagedPolicies:
    """What SAM would ask IAM for; the template names no managed policy by its short name."""

    def load(self) -> dict[str, str]:
        return {}


def source() -> Resource:
    """The template as it is written."""
    parsed: Resource = yaml_parse((ROOT / "template.yaml").read_text())
    return parsed


@cache
def deployed(*, whole: bool = False, gateway_layer: str = CODE) -> dict[str, Resource]:
    """The resources of a stack as it comes, or with EVERYTHING; the package gateway is at this address.

    Offline: `sam deploy` puts S3 addresses in the place of paths.
    """
    template = json.loads(json.dumps(source()))
    template["Globals"]["Function"]["CodeUri"] = CODE
    for name, resource in template["Resources"].items():
        if "ContentUri" in resource.get("Properties", {}):
            resource["Properties"]["ContentUri"] = gateway_layer if name == "GatewayLayer" else CODE
    for name, value in (EVERYTHING if whole else {}).items():
        template["Parameters"][name]["Default"] = value
    parameters = {name: each["Default"] for name, each in template["Parameters"].items()}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        transformed = transform(template, parameters, NoManagedPolicies())
    stack = Stack(transformed, {})
    held = {name for name in transformed["Conditions"] if stack.resolve({"Condition": name})}
    present = {
        name: each for name, each in transformed["Resources"].items() if each.get("Condition", None) in {None, *held}
    }
    chosen: dict[str, Resource] = _chosen(present, held)
    return chosen


def _chosen(value: Any, held: set[str]) -> Any:
    """A value with each Fn::If replaced by the side that its condition leaves."""
    if isinstance(value, list):
        return [found for item in value if (found := _chosen(item, held)) is not NOTHING]
    if not isinstance(value, dict):
        return value
    if value == {"Ref": "AWS::NoValue"}:
        return NOTHING
    if value.keys() == {"Fn::If"}:
        condition, then, otherwise = value["Fn::If"]
        return _chosen(then if condition in held else otherwise, held)
    members = {name: _chosen(member, held) for name, member in value.items()}
    return {name: member for name, member in members.items() if member is not NOTHING}


def of_type(resources: dict[str, Resource], kind: str) -> dict[str, Resource]:
    """The properties of the resources of a type, by name."""
    return {name: each.get("Properties", {}) for name, each in resources.items() if each["Type"] == kind}


def integrations(resources: dict[str, Resource]) -> Iterator[tuple[str, str, str, Resource]]:
    """(function, method, path, integration) of each route of the API."""
    (api,) = of_type(resources, "AWS::ApiGateway::RestApi").values()
    aliases = {name: alias["FunctionName"]["Ref"] for name, alias in of_type(resources, "AWS::Lambda::Alias").items()}
    for path, methods in api["Body"]["paths"].items():
        for method, operation in methods.items():
            integration = operation["x-amazon-apigateway-integration"]
            (target,) = re.findall(r"functions/\$\{(\w+)(?:\.Arn)?\}", json.dumps(integration["uri"]))
            yield aliases.get(target, target), method.upper(), path, integration


def environment(function: Resource) -> dict[str, Any]:
    """A function's variables."""
    variables: dict[str, Any] = function["Environment"]["Variables"]
    return variables


def statements(role: Resource) -> Iterator[Resource]:
    """What a role allows in its own policies."""
    for policy in role.get("Policies", []):
        listed = policy["PolicyDocument"]["Statement"]
        yield from listed if isinstance(listed, list) else [listed]
