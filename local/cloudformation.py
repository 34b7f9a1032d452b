"""CloudFormation's YAML and the intrinsic functions that can be evaluated without a deployed stack.

https://docs.aws.amazon.com/AWSCloudFormation/latest/UserGuide/intrinsic-function-reference.html
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

REGION = "us-east-1"
ACCOUNT = "000000000000"
PSEUDO_PARAMETERS = {
    "AWS::AccountId": ACCOUNT,
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::StackName": "local",
    "AWS::URLSuffix": "amazonaws.com",
}
NO_VALUE = object()


class Unresolved(LookupError):
    """A value that only a deployed stack has."""


class Stack:
    """A template with its parameters' defaults, and `attributes`: what `Ref` and `GetAtt` give for resources.

    Attributes are keyed as in `Sub`: a resource's name for its Ref, name.attribute for its GetAtt.
    """

    def __init__(self, document: Mapping[str, Any], attributes: Mapping[str, str]) -> None:
        parameters = document.get("Parameters", {})
        self._values: dict[str, Any] = {
            **{name: given["Default"] for name, given in parameters.items() if "Default" in given},
            **PSEUDO_PARAMETERS,
            "AWS::NoValue": NO_VALUE,
            **attributes,
        }
        self._conditions = document.get("Conditions", {})
        self._mappings = document.get("Mappings", {})
        self._functions: dict[str, Callable[[Any], Any]] = {
            "Ref": self._value,
            "Condition": lambda name: self.resolve(self._conditions[name]),
            "Fn::GetAtt": self._attribute,
            "Fn::Sub": self._sub,
            "Fn::If": self._if,
            "Fn::Equals": lambda pair: self._same(*self.resolve(pair)),
            "Fn::Not": lambda one: not self.resolve(one)[0],
            "Fn::And": lambda several: all(self.resolve(several)),
            "Fn::Or": lambda several: any(self.resolve(several)),
            "Fn::Join": lambda pair: pair[0].join(self.resolve(pair[1])),
            "Fn::Split": lambda pair: self.resolve(pair[1]).split(pair[0]),
            "Fn::Select": lambda pair: self.resolve(pair[1])[int(self.resolve(pair[0]))],
            "Fn::FindInMap": self._find_in_map,
        }

    def resolve(self, value: Any) -> Any:
        """The value with every intrinsic function evaluated. Raises Unresolved."""
        if isinstance(value, list):
            items = [self.resolve(item) for item in value]
            return [item for item in items if item is not NO_VALUE]
        if not isinstance(value, dict):
            return value
        if len(value) == 1:
            name, argument = next(iter(value.items()))
            if name in self._functions:
                return self._functions[name](argument)
            if name.startswith("Fn::"):
                raise Unresolved(name)
        members = {name: self.resolve(member) for name, member in value.items()}
        return {name: member for name, member in members.items() if member is not NO_VALUE}

    def _value(self, name: str) -> Any:
        if name not in self._values:
            raise Unresolved(name)
        return self._values[name]

    def _attribute(self, path: str | list[str]) -> Any:
        return self._value(path if isinstance(path, str) else ".".join(path))

    def _sub(self, argument: str | list[Any]) -> str:
        text, own = (argument, {}) if isinstance(argument, str) else argument
        names = self.resolve(own)

        def replacement(match: re.Match[str]) -> str:
            name = match[1]
            if name.startswith("!"):
                return f"${{{name[1:]}}}"
            return str(names[name] if name in names else self._value(name))

        return re.sub(r"\$\{([^}]+)\}", replacement, text)

    def _if(self, argument: list[Any]) -> Any:
        condition, then, otherwise = argument
        return self.resolve(then if self.resolve(self._conditions[condition]) else otherwise)

    def _find_in_map(self, argument: list[Any]) -> Any:
        name, first, second = self.resolve(argument)
        return self.resolve(self._mappings[name][first][second])

    @staticmethod
    def _same(one: Any, other: Any) -> bool:
        return str(one) == str(other)


class _Loader(yaml.SafeLoader):
    """YAML whose `!Sub x` is `{"Fn::Sub": x}`, as in JSON templates."""


def _intrinsic(loader: _Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix in {"Ref", "Condition"} else f"Fn::{suffix}"
    match node:
        case yaml.ScalarNode():
            return {name: loader.construct_scalar(node)}
        case yaml.SequenceNode():
            return {name: loader.construct_sequence(node, deep=True)}
        case yaml.MappingNode():
            return {name: loader.construct_mapping(node, deep=True)}
    raise TypeError(f"a YAML node that is not known: {node}")


_Loader.add_multi_constructor("!", _intrinsic)


def read(path: Path) -> dict[str, Any]:
    """The template at this path, its intrinsic functions still as written."""
    document: dict[str, Any] = yaml.load(path.read_text(), _Loader)  # noqa: S506 - a subclass of SafeLoader
    return document
