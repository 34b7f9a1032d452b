"""One execution environment of a local function: its process, its Runtime API and its log."""

from __future__ import annotations

import asyncio
import os
import secrets
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from local.cloudformation import REGION
from local.invocation import FunctionError
from local.runtime_api import RuntimeApi

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import Callable, Mapping

    from local.template import Function

    type Log = Callable[[str], None]

SHARED = Path(__file__).parents[1] / "shared"
INIT_S = 30.0
"""For a process to ask for its first invocation. AWS allows 10, with bytecode that is compiled already."""
STOP_S = 2.0
"""From SIGTERM to SIGKILL."""
GUARD = 'read -r _; kill -KILL "$0"'
"""Ends the process $0 when nobody holds this shell's standard input any more."""


class Environment:
    """A process of a function. Raises FunctionError at start when its init fails.

    `changed` is called when it has become idle, has answered, or is gone after it had started.
    """

    def __init__(self, function: Function, variables: Mapping[str, str], changed: Callable[[], None], log: Log) -> None:
        self.function, self.gone, self.retired = function, False, False
        self.api = RuntimeApi(function.arn, function.timeout_s, changed, self._kill)
        self.process: Process | None = None
        self._variables, self._changed, self._log = variables, changed, log
        self._life: asyncio.Task[None] | None = None
        self._started = self._stopping = False

    async def start(self) -> None:
        """Start the process, and wait until it asks for work."""
        began = time.monotonic()
        runtime = "gateway.http.streaming" if self.function.streams else "awslambdaric"
        self.process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", runtime, self.function.handler),
            cwd=self.function.code,
            env={**self._defaults(), **self._variables, "AWS_LAMBDA_RUNTIME_API": await self.api.start()},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
        self._life = asyncio.create_task(self._live(self.process))
        try:
            async with asyncio.timeout(INIT_S):
                await self.api.ready
        except (FunctionError, TimeoutError) as error:
            await self.stop()
            if isinstance(error, FunctionError):
                raise
            raise FunctionError("Sandbox.Timedout", f"init took more than {INIT_S:.0f} seconds") from None
        self._started = True
        self._log(f"started in {1000 * (time.monotonic() - began):.0f} ms")

    async def stop(self) -> None:
        """End the process: SIGTERM, and SIGKILL if that does not do."""
        if self.process is None or self._life is None:
            return
        if not self._stopping:
            self.retired = self._stopping = True
            with suppress(ProcessLookupError):
                self.process.terminate()
        await asyncio.wait({self._life}, timeout=STOP_S)
        self._kill()
        await self._life

    @property
    def idle(self) -> int:
        """How many invocations it can be given."""
        return 0 if self.retired else self.api.idle

    @property
    def capacity(self) -> int:
        """How many invocations it can be given or will ask for without having answered another."""
        return 0 if self.retired or self.gone else self.function.concurrency - len(self.api.running)

    @property
    def finishing(self) -> bool:
        """Whether it has answered all that it was given, and will ask for more when it has cleared up."""
        running = self.api.running.values()
        return bool(running) and all(invocation.ended for invocation in running)

    def _kill(self) -> None:
        if self.process and self.process.returncode is None:
            with suppress(ProcessLookupError):
                self.process.kill()

    def _defaults(self) -> dict[str, str]:
        """What Lambda itself sets, with credentials that are worth nothing."""
        return {
            "PATH": os.defpath,
            "LANG": "en_US.UTF-8",
            "TZ": ":UTC",
            "PYTHONPATH": f"{self.function.code}{os.pathsep}{SHARED}",
            "LAMBDA_TASK_ROOT": str(self.function.code),
            "_HANDLER": self.function.handler,
            "AWS_REGION": REGION,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_ACCESS_KEY_ID": "local",
            "AWS_SECRET_ACCESS_KEY": "local",
            "AWS_EXECUTION_ENV": f"AWS_Lambda_python{sys.version_info.major}.{sys.version_info.minor}",
            "AWS_LAMBDA_FUNCTION_NAME": self.function.name,
            "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
            "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": str(self.function.memory_mb),
            "AWS_LAMBDA_INITIALIZATION_TYPE": "on-demand",
            "AWS_LAMBDA_LOG_GROUP_NAME": f"/aws/lambda/{self.function.name}",
            "AWS_LAMBDA_LOG_STREAM_NAME": secrets.token_hex(16),
        }

    async def _live(self, process: Process) -> None:
        """See the process to its end, which is also that of its Runtime API."""
        guard = await asyncio.create_subprocess_exec(
            *("sh", "-c", GUARD, str(process.pid)), stdin=asyncio.subprocess.PIPE, start_new_session=True
        )
        await self._copy_log(process)
        status = await process.wait()
        guard.kill()
        await guard.wait()
        if not self.retired:
            self._log(f"exited with status {status}")
        self.gone = True
        await self.api.stop(FunctionError("Runtime.ExitError", f"Runtime exited with status {status}"))
        if self._started:
            self._changed()

    async def _copy_log(self, process: Process) -> None:
        rest = b""
        while process.stdout and (read := await process.stdout.read(65_536)):
            *lines, rest = (rest + read).split(b"\n")
            for line in lines:
                self._log(line.decode(errors="replace"))
        if rest:
            self._log(rest.decode(errors="replace"))
