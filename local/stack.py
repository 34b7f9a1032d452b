"""A deployed stack, for programs that keep it: its functions by group, their variables, and starting them afresh."""

from __future__ import annotations

import json
import os
import tomllib
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import boto3

if TYPE_CHECKING:
    from collections.abc import Iterator

GROUPS = (
    "health", "catalog", "chat", "account", "admin", "auth", "billing", "history", "jobs", "stripe_webhook", "trials",
)  # fmt: skip
"""The one that matters least comes first: what is wrong is found out there."""
SAMCONFIG = Path(__file__).parent.parent / "samconfig.toml"
STARTED = "STARTED_AFRESH_AT"
"""The variable of a function whose change makes Lambda start it afresh."""


class NoStack(RuntimeError):
    """The stack, or something of it, is not there; the message says what, and nothing was changed."""


class Stack:
    """The functions of a stage's stack. Raises NoStack when one is missing."""

    def __init__(self, name: str, region: str) -> None:
        self.name = name
        self._vault = boto3.client("secretsmanager", region_name=region)
        self._functions = boto3.client("lambda", region_name=region)
        # there are more resources than describe_stack_resources tells
        pages = boto3.client("cloudformation", region_name=region).get_paginator("list_stack_resources")
        ids = dict(_physical(pages.paginate(StackName=name)))
        if missing := [function_of(group) for group in GROUPS if function_of(group) not in ids]:
            raise NoStack(f"The stack {name} has no {', '.join(missing)}.")
        self._names = {group: ids[function_of(group)] for group in GROUPS}
        self.variables = {group: self._read(group) for group in GROUPS}

    def secret(self, arn: str) -> dict[str, Any]:
        """The members of a secret."""
        members: dict[str, Any] = json.loads(self._vault.get_secret_value(SecretId=arn)["SecretString"])
        return members

    def store(self, arn: str, members: dict[str, str]) -> None:
        """Replace a secret's members."""
        self._vault.put_secret_value(SecretId=arn, SecretString=json.dumps(members))

    def restart(self, group: str) -> None:
        """Have the next requests served by environments that have read their secrets anew; those under way end as they
        would have.

        A function with an alias is served in a version, whose variables never change: the alias is given a new one.
        """
        name = self._names[group]
        self.variables[group][STARTED] = datetime.now(UTC).isoformat(timespec="seconds")
        self._functions.update_function_configuration(
            FunctionName=name, Environment={"Variables": self.variables[group]}
        )
        if aliases := self._functions.list_aliases(FunctionName=name)["Aliases"]:
            self._functions.get_waiter("function_updated_v2").wait(FunctionName=name)
            version = self._functions.publish_version(FunctionName=name)["Version"]
            self._functions.get_waiter("published_version_active").wait(FunctionName=name, Qualifier=version)
            for alias in aliases:
                self._functions.update_alias(FunctionName=name, Name=alias["Name"], FunctionVersion=version)

    def _read(self, group: str) -> dict[str, str]:
        told = self._functions.get_function_configuration(FunctionName=self._names[group])
        return dict(told.get("Environment", {}).get("Variables", {}))


def of_stage(stage: str) -> Stack:
    """The stack that samconfig.toml names for a stage, in AWS_REGION or the region there. Raises NoStack."""
    config = tomllib.loads(SAMCONFIG.read_text())
    if "deploy" not in config.get(stage, {}):
        raise NoStack("STAGE must be dev, staging or production.")
    region = os.environ.get("AWS_REGION") or config["default"]["global"]["parameters"]["region"]
    return Stack(config[stage]["deploy"]["parameters"]["stack_name"], region)


def function_of(group: str) -> str:
    """The logical id of a group's function."""
    return "".join(word.capitalize() for word in group.split("_")) + "Function"


def _physical(pages: Any) -> Iterator[tuple[str, str]]:
    for page in pages:
        for resource in page["StackResourceSummaries"]:
            yield resource["LogicalResourceId"], resource.get("PhysicalResourceId", "")
