"""The AWS that a SAM template describes, on this machine: functions in processes of their own, and a REST API.

Each function runs from the source tree on its real runtime, which asks a real Runtime API for its work: the stock
runtime, awslambdaric, or ours where the template sets AWS_LAMBDA_EXEC_WRAPPER. One port answers for all of AWS:
the template's routes, SendMessage of SQS, and `POST /2015-03-31/functions/{name}/invocations` of Lambda.
"""

from __future__ import annotations

import asyncio
import json
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from watchfiles import awatch

from local.environment import SHARED
from local.functions import Pool
from local.gateway import RestApi
from local.invocation import FunctionError
from local.metrics import Metrics
from local.schedules import period_s, repeat
from local.sqs import TARGET, Sqs
from local.template import load
from local.wire import Connection, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping

    from local.invocation import Invocation
    from local.template import Template

INVOKE = "/2015-03-31/functions/"


def to_stderr(function: str, line: str) -> None:
    """Show a line of a function's log."""
    print(f"{function} | {line}", file=sys.stderr, flush=True)


class LocalLambda:
    """The functions, routes, schedules and queues of a template.

    `environment` has variables of every function, above the template's own; an empty one takes it away. `data` is
    the folder that the queues' messages are kept in. `log` is called with a function's name and a line. `own` gives the
    variables that only the functions of a group have, above all others. `parameters` are the template's, where they are
    not to have their defaults. What AWS would measure is in `metrics`.
    """

    def __init__(
        self,
        template: Path,
        environment: Mapping[str, str],
        data: Path,
        log: Callable[[str, str], None] = to_stderr,
        own: Callable[[str], Mapping[str, str]] = lambda _: {},
        parameters: Mapping[str, str] | None = None,
    ) -> None:
        self.address = ""
        self.metrics = Metrics()
        self._parameters = parameters
        self.pools: dict[str, Pool] = {}
        self._path, self._environment, self._own, self._data, self._log = template, environment, own, data, log
        self._server = Server(self._handle)
        self._work: set[asyncio.Task[None]] = set()

    async def start(self, port: int = 0) -> str:
        """Listen on loopback, on any free port if it is 0, and give the address: http://host:port.

        Raises OSError if the port is taken and UnsupportedSchedule for a schedule that cannot be run here.
        """
        self.address = f"http://{await self._server.start(port)}"
        try:
            self._build(load(self._path, self.address, self._parameters))
        except BaseException:
            await self._server.stop()
            raise
        return self.address

    async def invoke(self, name: str, event: Any) -> Any:
        """Invoke a function and give its result. Raises FunctionError, and KeyError if there is none so named."""
        payload = await self._invoke(name, json.dumps(event).encode()).payload()
        return json.loads(payload) if payload else None

    async def send(self, name: str, event: Any) -> None:
        """Invoke a function for nobody who waits: what it fails at is put aside where the template says so.

        Raises FunctionError, which is for the log alone.
        """
        try:
            await self.invoke(name, event)
        except FunctionError as error:
            if queue := self.pools[name].function.failures:
                told = {"requestPayload": event, "responsePayload": json.loads(error.body())}
                self.sqs.queues[queue].add(json.dumps(told))
            raise

    async def stop(self) -> None:
        """Close the port, break off what is running and end every process."""
        for task in self._work:
            task.cancel()
        await asyncio.gather(*self._work, return_exceptions=True)
        await self._server.stop()
        await asyncio.gather(*(pool.stop() for pool in self.pools.values()))

    def _build(self, template: Template) -> None:
        periods = {schedule: period_s(schedule.expression) for schedule in template.schedules}
        for function in template.functions:
            given = {**self._environment, **self._own(function.group)}
            variables = {**function.environment, "AWS_ENDPOINT_URL_SQS": self.address, **given}
            present = {name: value for name, value in variables.items() if value}
            log, ended = partial(self._log_of, function.name), partial(self._ended, function.name)
            self.pools[function.name] = Pool(function, present, log, ended)
        self._api = RestApi(template, self._invoke, self._log, self.metrics)
        self.sqs = Sqs(template.queues, self._data, self.invoke, self._log)
        self.sqs.measure(self.metrics)
        for schedule, every_s in periods.items():
            self._begin(repeat(schedule, every_s, self.send, self._log))
        for subscription in template.subscriptions:
            self._begin(self.sqs.deliver(subscription))
        self._begin(self._reload({function.code for function in template.functions} | {SHARED}))

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._work.add(task)

    def _log_of(self, function: str, line: str) -> None:
        self.metrics.take(line)
        self._log(function, line)

    def _ended(self, function: str, error: FunctionError | None) -> None:
        """Measure an invocation as Lambda does: one that is throttled is neither an invocation nor an error."""
        counted = ["Throttles"] if error and error.is_throttle else ["Invocations", *(["Errors"] if error else [])]
        for name in counted:
            self.metrics.put("AWS/Lambda", name, {"FunctionName": function})

    def _invoke(self, name: str, event: bytes) -> Invocation:
        return self.pools[name].invoke(event)

    async def _reload(self, folders: Iterable[Path]) -> None:
        """Let the next invocations start from the changed source; those that are running finish first."""
        async for changes in awatch(*folders):
            files = sorted({Path(path).name for _, path in changes})
            self._log("local", f"{', '.join(files)} changed: the next invocations start afresh")
            for pool in self.pools.values():
                pool.retire()

    async def _handle(self, connection: Connection) -> None:
        if connection.target.startswith(INVOKE):
            await self._handle_invoke(connection)
        elif (connection.header("x-amz-target") or "").startswith(TARGET):
            await self.sqs.handle(connection)
        else:
            await self._api.handle(connection)

    async def _handle_invoke(self, connection: Connection) -> None:
        event = await connection.body()
        name = connection.target.removeprefix(INVOKE).partition("/")[0]
        if name not in self.pools:
            body = json.dumps({"Type": "User", "Message": f"Function not found: {name}"}).encode()
            await connection.respond(404, body, [("x-amzn-errortype", "ResourceNotFoundException")])
            return
        try:
            await connection.respond(200, await self._invoke(name, event or b"{}").payload())
        except FunctionError as error:
            await connection.respond(200, error.body(), [("x-amz-function-error", "Unhandled")])
