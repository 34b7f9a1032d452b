"""An app on the Lambda runtime: its cold start, and one process that serves 64 streams at once.

The process is one of the local Lambda's, and sees what Lambda Managed Instances show it: as many invocations at
once as AWS_LAMBDA_MAX_CONCURRENCY says.
"""

from __future__ import annotations

import asyncio
import json
import time
from statistics import median
from typing import TYPE_CHECKING

from bench.client import STAMP, content
from bench.measure import HELD_OPEN, OPEN_STREAMS
from bench.processes import ROOT, NotStarted, memory_mb
from local.environment import Environment
from local.invocation import FunctionError, Invocation
from local.template import Function

if TYPE_CHECKING:
    from collections.abc import Mapping

STARTS = 3
SECONDS = 30.0


def event(key: str) -> bytes:
    """API Gateway's event of one streamed completion."""
    lines = {"Authorization": [f"Bearer {key}"], "Content-Type": ["application/json"]}
    route = {"path": "/v1/chat/completions", "httpMethod": "POST"}
    caller = {"domainName": "localhost", "requestId": "bench", "identity": {"sourceIp": "127.0.0.1"}}
    body = {"body": content(HELD_OPEN).decode(), "isBase64Encoded": False}
    query = {"queryStringParameters": None, "multiValueQueryStringParameters": None}
    headers = {"headers": {name: values[0] for name, values in lines.items()}, "multiValueHeaders": lines}
    return json.dumps({**route, **headers, **query, **body, "requestContext": {**caller, **route}}).encode()


class Streams:
    """Streams through one environment, and how many of them are between their first and last chunk."""

    def __init__(self, environment: Environment, changed: asyncio.Event, key: str) -> None:
        self.environment, self.changed, self.event = environment, changed, event(key)
        self.open = 0

    async def one(self) -> None:
        """One whole stream. Raises FunctionError, and NotStarted when chunks are missing."""
        invocation, stamps = Invocation(self.event), 0
        self.environment.api.give(invocation)
        async for chunk in invocation.chunks():
            first = not stamps
            stamps += len(STAMP.findall(chunk))
            self.open += bool(first and stamps)
        self.open -= bool(stamps)
        if stamps != HELD_OPEN.chunks:
            raise NotStarted(f"a stream on the Lambda runtime had {stamps} chunks of {HELD_OPEN.chunks}")

    async def memory(self) -> float:
        """Memory of the process in MB while all streams are open."""
        pid = self.environment.process.pid if self.environment.process else 0
        memory = 0.0
        async with asyncio.timeout(SECONDS):
            while self.environment.idle < OPEN_STREAMS:
                self.changed.clear()
                await self.changed.wait()
            streams = asyncio.gather(*(self.one() for _ in range(OPEN_STREAMS)))
            while not streams.done():
                if self.open == OPEN_STREAMS:
                    memory = max(memory, memory_mb(pid))
                await asyncio.sleep(0.2)
            await streams
        return memory


async def on_lambda(asgi: str, key: str, settings: Mapping[str, str]) -> tuple[float, float]:
    """Milliseconds from the start of a process to its first request for an invocation, median of 3, and its
    memory in MB under the streams. Raises NotStarted.
    """
    function = Function(
        name="bench",
        handler=asgi.replace(":", "."),
        code=ROOT,
        timeout_s=SECONDS,
        memory_mb=1024,
        environment={"AWS_LAMBDA_EXEC_WRAPPER": "/opt/serve"},
    )
    variables = {**settings, "AWS_LAMBDA_MAX_CONCURRENCY": str(OPEN_STREAMS)}
    starts, memory, log = [], 0.0, list[str]()
    for attempt in range(1, STARTS + 1):
        changed = asyncio.Event()
        environment = Environment(function, variables, changed.set, log.append)
        began = time.perf_counter()
        try:
            await environment.start()
            starts.append((time.perf_counter() - began) * 1e3)
            if attempt == STARTS:
                memory = await Streams(environment, changed, key).memory()
        except (FunctionError, TimeoutError) as error:
            raise NotStarted(f"{asgi} on the Lambda runtime: {error!r} {log[-1:]}") from error
        finally:
            await environment.stop()
    return median(starts), memory
