"""What of template.yaml runs locally: functions, and the routes, schedules and queues that invoke them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from local.cloudformation import ACCOUNT, NO_VALUE, REGION, Stack, Unresolved, read

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

BUFFERED_TIMEOUT_MS = 29_000
"""API Gateway's patience with an integration that says nothing else."""


@dataclass(frozen=True)
class Function:
    """A Lambda function; `code` is the folder that its handler is imported from."""

    name: str
    handler: str
    code: Path
    timeout_s: float
    memory_mb: int
    environment: Mapping[str, str]
    reserved: int | None = None
    """Invocations that it may have at once (ReservedConcurrentExecutions)."""
    failures: str | None = None
    """The queue of the events that it failed at, of those that nobody waits for (EventInvokeConfig)."""

    @property
    def arn(self) -> str:
        return f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{self.name}"

    @property
    def group(self) -> str:
        """The package of its handler."""
        return self.handler.partition(".")[0]

    @property
    def streams(self) -> bool:
        """Whether an exec wrapper puts our runtime in the place of the stock one."""
        return "AWS_LAMBDA_EXEC_WRAPPER" in self.environment

    @property
    def concurrency(self) -> int:
        """Invocations that one process takes at once (Lambda Managed Instances)."""
        return int(self.environment.get("AWS_LAMBDA_MAX_CONCURRENCY", "1"))


@dataclass(frozen=True)
class Route:
    """A method of a resource of the REST API; ANY is every method."""

    method: str
    path: str
    function: str
    streams: bool
    timeout_s: float


@dataclass(frozen=True)
class Schedule:
    """An EventBridge schedule and the input that it invokes its function with, as JSON."""

    name: str
    expression: str
    function: str
    input: str


@dataclass(frozen=True)
class Queue:
    """An SQS queue; a message that was received `max_receives` times in vain moves to `dead_letters`."""

    name: str
    visibility_s: float
    max_receives: int | None = None
    dead_letters: str | None = None

    @property
    def arn(self) -> str:
        return queue_arn(self.name)


@dataclass(frozen=True)
class Subscription:
    """A function that a queue's messages invoke; `partial` if it may report single ones as failed."""

    queue: str
    function: str
    batch: int
    partial: bool


@dataclass(frozen=True)
class Template:
    """Everything in a template that can be run locally."""

    functions: list[Function] = field(default_factory=list)
    routes: list[Route] = field(default_factory=list)
    schedules: list[Schedule] = field(default_factory=list)
    queues: list[Queue] = field(default_factory=list)
    subscriptions: list[Subscription] = field(default_factory=list)
    api_name: str = ""
    stage_name: str = ""
    gateway_responses: dict[str, Any] = field(default_factory=dict)
    binary_types: list[str] = field(default_factory=list)


def load(path: Path, address: str, parameters: Mapping[str, str] | None = None) -> Template:
    """Read a SAM template; queues get URLs under `address`, and `parameters` come before their defaults.

    A variable of a function that names something which is not here, such as a secret's ARN, is left out.
    """
    document = read(path)
    for name, value in (parameters or {}).items():
        document["Parameters"][name]["Default"] = value
    resources: Mapping[str, Any] = document["Resources"]
    stack = Stack(document, _attributes(resources, address))
    template = Template()
    for name, resource in resources.items():
        properties = resource.get("Properties", {})
        match resource["Type"]:
            case "AWS::Serverless::Function":
                merged = _with_globals(document.get("Globals", {}).get("Function", {}), properties)
                template.functions.append(_function(name, merged, stack, path.parent))
                _add_events(template, name, merged.get("Events", {}), stack)
            case "AWS::SQS::Queue":
                template.queues.append(_queue(name, properties, stack))
            case "AWS::Serverless::Api":
                merged = _with_globals(document.get("Globals", {}).get("Api", {}), properties)
                api = {"api_name": stack.resolve(merged.get("Name", name)), "stage_name": merged["StageName"]}
                template = replace(template, **api)
                template.gateway_responses.update(stack.resolve(merged.get("GatewayResponses", {})))
                template.binary_types.extend(merged.get("BinaryMediaTypes", ()))
    return template


def queue_arn(name: str) -> str:
    """What IAM and events call a queue."""
    return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"


def queue_url(address: str, name: str) -> str:
    """What senders call a queue."""
    return f"{address}/{ACCOUNT}/{name}"


def _attributes(resources: Mapping[str, Any], address: str) -> dict[str, str]:
    attributes: dict[str, str] = {}
    for name, resource in resources.items():
        match resource["Type"]:
            case "AWS::SQS::Queue":
                attributes |= {
                    name: queue_url(address, name),
                    f"{name}.Arn": queue_arn(name),
                    f"{name}.QueueName": name,
                }
            case "AWS::Serverless::Function":
                attributes |= {
                    name: name,
                    f"{name}.Arn": f"arn:aws:lambda:{REGION}:{ACCOUNT}:function:{name}",
                }
            case "AWS::Serverless::Api":
                attributes |= {name: name, f"{name}.Stage": "local"}
    return attributes


def _with_globals(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**shared, **own}
    variables = [part.get("Environment", {}).get("Variables", {}) for part in (shared, own)]
    merged["Environment"] = {"Variables": {**variables[0], **variables[1]}}
    return merged


def _function(name: str, properties: Mapping[str, Any], stack: Stack, root: Path) -> Function:
    reserved = stack.resolve(properties.get("ReservedConcurrentExecutions", NO_VALUE))
    aside = properties.get("EventInvokeConfig", {}).get("DestinationConfig", {}).get("OnFailure", {})
    failures = stack.resolve(aside).get("Destination")
    return Function(
        name=name,
        handler=stack.resolve(properties["Handler"]),
        code=(root / stack.resolve(properties["CodeUri"])).resolve(),
        timeout_s=float(stack.resolve(properties.get("Timeout", 3))),
        memory_mb=int(stack.resolve(properties.get("MemorySize", 128))),
        environment=dict(_variables(properties["Environment"]["Variables"], stack)),
        reserved=None if reserved is NO_VALUE else int(reserved),
        failures=_queue_name(failures) if failures else None,
    )


def _variables(variables: Mapping[str, Any], stack: Stack) -> Iterator[tuple[str, str]]:
    for name, value in variables.items():
        try:
            resolved = stack.resolve(value)
        except Unresolved:
            continue
        if isinstance(resolved, bool):
            resolved = str(resolved).lower()
        if isinstance(resolved, str | int | float) and not str(resolved).startswith("{{resolve:"):
            yield name, str(resolved)


def _queue(name: str, properties: Mapping[str, Any], stack: Stack) -> Queue:
    visibility_s = float(stack.resolve(properties.get("VisibilityTimeout", 30)))
    if "RedrivePolicy" not in properties:
        return Queue(name, visibility_s)
    policy = stack.resolve(properties["RedrivePolicy"])
    return Queue(name, visibility_s, int(policy["maxReceiveCount"]), _queue_name(policy["deadLetterTargetArn"]))


def _queue_name(arn: str) -> str:
    return arn.rpartition(":")[2]


def _add_events(template: Template, function: str, events: Mapping[str, Any], stack: Stack) -> None:
    for name, event in events.items():
        properties = event["Properties"]
        match event["Type"]:
            case "Api":
                names = ["Method", "Path", "ResponseTransferMode", "TimeoutInMillis"]
                template.routes.append(_route(function, _resolved(properties, names, stack)))
            case "ScheduleV2":
                names = ["ScheduleExpression", "Input", "State"]
                schedule = _resolved(properties, names, stack)
                if schedule.get("State", "ENABLED") == "ENABLED":
                    expression, payload = schedule["ScheduleExpression"], schedule.get("Input", "{}")
                    template.schedules.append(Schedule(f"{function}{name}", expression, function, payload))
            case "SQS":
                names = ["Queue", "BatchSize", "FunctionResponseTypes"]
                template.subscriptions.append(_subscription(function, _resolved(properties, names, stack)))


def _resolved(properties: Mapping[str, Any], names: Iterable[str], stack: Stack) -> dict[str, Any]:
    return {name: stack.resolve(properties[name]) for name in names if name in properties}


def _route(function: str, properties: Mapping[str, Any]) -> Route:
    return Route(
        method=properties["Method"].upper(),
        path=properties["Path"],
        function=function,
        streams=properties.get("ResponseTransferMode") == "RESPONSE_STREAM",
        timeout_s=int(properties.get("TimeoutInMillis", BUFFERED_TIMEOUT_MS)) / 1000,
    )


def _subscription(function: str, properties: Mapping[str, Any]) -> Subscription:
    return Subscription(
        queue=_queue_name(properties["Queue"]),
        function=function,
        batch=int(properties.get("BatchSize", 10)),
        partial="ReportBatchItemFailures" in properties.get("FunctionResponseTypes", ()),
    )
