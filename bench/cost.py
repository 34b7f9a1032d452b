"""What a deployment costs: `make cost` runs the template's functions here, counts their processor time, and applies
AWS's prices. Waiting (for a model, for the database over a network) is given, not measured.

A Lambda has a processor for each 1,769 MB of memory, and what it has less of takes as much longer
(https://docs.aws.amazon.com/lambda/latest/dg/configuration-memory.html).
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import asyncpg
import httpx

from local import postgres, schema
from local.aws_lambda import LocalLambda
from local.home import SECRETS
from local.invocation import FunctionError
from local.schedules import period_s
from local.template import load

ROOT = Path(__file__).parent.parent
REQUESTS = 200
MB_PER_CPU = 1769
GB_SECOND, INVOCATION = 0.0000133334, 0.20e-6
API_REQUEST, LOG_GB, OUT_GB = 3.50e-6, 0.50, 0.09
"""Dollars in us-east-1, 2026, arm64; without the free tier."""
MODEL_S, DATABASE_S = 10.0, 0.002
"""What a completion waits for its model, and a call for a database in the same region."""
MONTH_S = 30 * 86_400
LOG_BYTES = 1_500
"""Of a request: its line, the access log's and Lambda's own."""
STREAM_BYTES = 30_000
"""Of a streamed answer of some hundred tokens."""
BODY = {"model": "sandbox/chat", "messages": [{"role": "user", "content": "Hello"}], "stream": True}


@dataclass(frozen=True, slots=True)
class Measured:
    """A request or a job: its function's memory, processor seconds a run, what it waits for and what leaves."""

    name: str
    memory_mb: int
    cpu_s: float
    waits_s: float
    out_bytes: int = 0

    @property
    def billed_s(self) -> float:
        """How long a Lambda of this memory is at it."""
        return self.waits_s + self.cpu_s * max(1.0, MB_PER_CPU / self.memory_mb)

    @property
    def dollars(self) -> float:
        """Of one run: duration and invocation."""
        return self.billed_s * self.memory_mb / 1024 * GB_SECOND + INVOCATION


async def measured(
    aws: LocalLambda, function: str, name: str, waits_s: float, run: Callable[[], Awaitable[int]], runs: int
) -> Measured:
    """Run something again and again on one function, once before the counting begins."""
    out_bytes = await run()
    before = _cpu_s(aws, function)
    for _ in range(runs):
        await run()
    cpu_s = (_cpu_s(aws, function) - before) / runs
    return Measured(name, aws.pools[function].function.memory_mb, cpu_s, waits_s, out_bytes)


def _cpu_s(aws: LocalLambda, function: str) -> float:
    """The processor seconds of a function's processes so far."""
    processes = [each.process for each in aws.pools[function].environments if each.process]
    ticks = 0
    for process in processes:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


async def everything(aws: LocalLambda, address: str, key: str) -> tuple[list[Measured], list[Measured]]:
    """The requests that matter, and every job."""
    async with httpx.AsyncClient(base_url=address, headers={"authorization": f"Bearer {key}"}, timeout=60) as client:

        async def complete() -> int:
            (await client.post("/v1/chat/completions", json=BODY)).raise_for_status()
            return STREAM_BYTES

        async def balance() -> int:
            return len((await client.get("/user/balance")).raise_for_status().content)

        async def models() -> int:
            return len((await client.get("/models")).raise_for_status().content)

        waits = MODEL_S + 2 * DATABASE_S
        requests = [
            await measured(aws, "ChatFunction", "a streamed completion", waits, complete, REQUESTS),
            await measured(aws, "AccountFunction", "GET /user/balance", 2 * DATABASE_S, balance, REQUESTS),
            await measured(aws, "CatalogFunction", "GET /models", DATABASE_S, models, REQUESTS),
        ]
    jobs: list[Measured] = []
    for schedule in load(ROOT / "template.yaml", address).schedules:

        async def work(given: str = schedule.input) -> int:
            with suppress(FunctionError):  # of what asks somebody outside
                await aws.invoke("JobsFunction", json.loads(given))
            return 0

        jobs.append(await measured(aws, schedule.function, schedule.expression, DATABASE_S, work, 5))
    return requests, jobs


def report(requests: list[Measured], jobs: list[Measured]) -> str:
    """The figures as docs/cost.md has them."""
    lines = [
        "| request | CPU ms | billed ms at its memory | $ a million: Lambda | API | logs and transfer | all |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for each in requests:
        logs = LOG_BYTES / 1e9 * LOG_GB + each.out_bytes / 1e9 * OUT_GB
        total = each.dollars + API_REQUEST + logs
        lines.append(
            f"| {each.name} | {1000 * each.cpu_s:.1f} | {1000 * each.billed_s:.0f} at {each.memory_mb} MB"
            f" | {1e6 * each.dollars:.2f} | {1e6 * API_REQUEST:.2f} | {1e6 * logs:.2f} | {1e6 * total:.2f} |"
        )
    runs = [MONTH_S / period_s(job.name) for job in jobs]
    idle = sum(count * job.dollars for count, job in zip(runs, jobs, strict=True))
    seconds = sum(count * job.billed_s * job.memory_mb / 1024 for count, job in zip(runs, jobs, strict=True))
    lines += [
        "",
        f"Idle: {sum(runs):,.0f} runs of {len(jobs)} jobs a month, {seconds:,.0f} GB-seconds, ${idle:.2f}.",
    ]
    return "\n".join(lines)


async def main() -> None:
    """Start a gateway, measure it and say what it costs."""
    with tempfile.TemporaryDirectory() as folder:
        server = postgres.Server(postgres.binaries(), Path(folder) / "postgres", durable=False)
        await asyncio.to_thread(server.start)
        try:
            print(report(*await _measured_on(server, Path(folder))))
        finally:
            await asyncio.to_thread(server.stop)


async def _measured_on(server: postgres.Server, folder: Path) -> tuple[list[Measured], list[Measured]]:
    connection = await asyncpg.connect(server.url())
    await connection.execute("create database gateway")
    await connection.close()
    url = server.url("gateway")
    await schema.apply(url)
    await schema.admit_functions(url)
    own = {"STAGE": "dev", "KEY_PEPPERS": "v1:of-nobody-at-all-here", "DATABASE_URL": server.url("gateway", "gateway")}
    os.environ |= own
    from local import seed  # noqa: PLC0415 - it reads the settings, which had to be there first

    key = (await seed.seed(url)).customer_key
    blank = dict.fromkeys(SECRETS, "")
    stripe = {"STRIPE_SECRET_KEY": "sk", "STRIPE_WEBHOOK_SECRET": "wh", "STRIPE_BASE_URL": "http://127.0.0.1:1"}
    aws = LocalLambda(ROOT / "template.yaml", own | blank | stripe, folder / "queues", lambda *_: None)
    address = await aws.start()
    try:
        began = time.monotonic()
        found = await everything(aws, address, key)
        print(f"measured in {time.monotonic() - began:.0f} s", file=sys.stderr)
        return found
    finally:
        await aws.stop()


if __name__ == "__main__":
    asyncio.run(main())
