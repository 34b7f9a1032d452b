"""The AWS that a SAM template describes, on this machine: Lambda functions in processes of their own, behind a REST API.

Each function runs from the source tree on its real runtime, which speaks to a real Runtime API: the stock one of
awslambdaric, or ours where the template sets AWS_LAMBDA_EXEC_WRAPPER. One port answers for all of AWS: the routes of
the template, SendMessage of SQS, and `POST /2015-03-31/functions/{name}/invocations` of Lambda.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

from watchfiles import awatch

from local.environment import SHARED
from local.functions import Pool
from local.gateway import RestApi
from local.invocation import FunctionError
from local.schedules import period_s, repeat
from local.sqs import TARGET, Sqs
from local.template import load
from local.wire import Connection, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    from local.invocation import Invocation
    from local.template import Template

INVOKE = "/2015-03-31/functions/"


def to_stderr(function: str, line: str) -> None:
    """Show a line of a function's log."""
    print(f"{function} | {line}", file=sys.stderr, flush=True)


class LocalLambda:
    """The functions, routes, schedules and queues of a template.

    `environment` are variables of every function, above the template's own; an empty one takes a variable away.
    `data` is the folder that messages of queues are kept in. `log` is called with a function's name and a line.
    """

    def __init__(
        self,
        template: Path,
        environment: Mapping[str, str],
        data: Path,
        log: Callable[[str, str], None] = to_stderr,
    ) -> None:
        self.pools: dict[str, Pool] = {}
        self._path, self._environment, self._data, self._log = template, environment, data, log
        self._server = Server(self._handle)
        self._work: set[asyncio.Task[None]] = set()
        self._unwatch = asyncio.Event()

    async def start(self, port: int = 0) -> str:
        """Listen on loopback, on any free port if it is 0, and give the address: http://host:port.

        Raises OSError if the port is taken and UnsupportedSchedule for a schedule that cannot be run here.
        """
        address = f"http://{await self._server.start(port)}"
        template = load(self._path, address)
        for function in template.functions:
            variables = {**function.environment, "AWS_ENDPOINT_URL_SQS": address, **self._environment}
            present = {name: value for name, value in variables.items() if value}
            self.pools[function.name] = Pool(function, present, self._log_of(function.name))
        self._api = RestApi(template, self._invoke, self._log)
        self._sqs = Sqs(template.queues, self._data, self.invoke, self._log)
        self._begin(template)
        return address
