"""A local function: as many execution environments as it has invocations at once."""

from __future__ import annotations

import asyncio
import os
from collections import deque
from typing import TYPE_CHECKING

from local.environment import Environment
from local.invocation import FunctionError, Invocation

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from local.environment import Log
    from local.template import Function

ENVIRONMENTS = 32
"""At most; further invocations wait for one of them, where AWS would answer 429 at the account's limit."""
STARTS = max(2, os.cpu_count() or 1)
"""Processes that start at the same time."""
FINISHING_S = 0.1
"""How long an invocation waits for a process that has answered already, before it has a new one started."""


class Pool:
    """The environments of one function; `on_end` hears how each invocation ended."""

    def __init__(
        self,
        function: Function,
        variables: Mapping[str, str],
        log: Log,
        on_end: Callable[[FunctionError | None], None] = lambda _: None,
    ) -> None:
        self.function = function
        self._on_end = on_end
        self.environments: list[Environment] = []
        self._variables, self._log = variables, log
        self._waiting: deque[Invocation] = deque()
        self._starting = self._unended = 0
        self._tasks: set[asyncio.Task[None]] = set()

    def invoke(self, event: bytes) -> Invocation:
        """Have an event served by an idle environment, or by a new one."""
        invocation = Invocation(event, on_end=self._ended)
        reserved = self.function.reserved
        is_throttled = reserved is not None and self._unended >= reserved
        self._unended += 1
        if is_throttled:
            invocation.end(FunctionError.throttled())
        else:
            self._waiting.append(invocation)
            self._assign()
        return invocation

    def retire(self) -> None:
        """Let no environment take more work: idle ones go now, busy ones when they have finished."""
        for environment in self.environments:
            environment.retired = True
        self._assign()

    async def stop(self) -> None:
        """End every environment, whatever it is doing, and refuse what is waiting."""
        while self._waiting:
            self._waiting.popleft().end(FunctionError("Sandbox.Stopped", "the local Lambda is stopping"))
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(environment.stop() for environment in self.environments))

    def _ended(self, error: FunctionError | None) -> None:
        self._unended -= 1
        self._on_end(error)

    def _assign(self) -> None:
        """Bring what is waiting together with who is idle; called whenever either may have changed."""
        self.environments = [environment for environment in self.environments if not environment.gone]
        for environment in self.environments:
            while self._waiting and environment.idle:
                environment.api.give(self._waiting.popleft())
            if environment.retired and environment.api.idle and not environment.api.running:
                self._spawn(environment.stop())
        if not self._waiting:
            return
        if any(environment.finishing and not environment.retired for environment in self.environments):
            asyncio.get_running_loop().call_later(FINISHING_S, self._grow)
        else:
            self._grow()

    def _grow(self) -> None:
        for _ in range(STARTS - self._starting):
            expected = sum(environment.capacity for environment in self.environments)
            if len(self._waiting) <= expected or len(self.environments) >= ENVIRONMENTS:
                return
            self._starting += 1
            environment = Environment(self.function, self._variables, self._assign, self._log)
            self.environments.append(environment)
            self._spawn(self._start(environment))

    async def _start(self, environment: Environment) -> None:
        try:
            await environment.start()
        except (FunctionError, OSError) as error:
            environment.gone = True
            if self._waiting:
                reason = error if isinstance(error, FunctionError) else FunctionError("Sandbox", str(error))
                self._waiting.popleft().end(reason)
        finally:
            self._starting -= 1
        self._assign()

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
