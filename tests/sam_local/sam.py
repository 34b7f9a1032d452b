"""SAM local over what was built, with settings of our own in the place of the template's secrets."""

from __future__ import annotations

import json
import subprocess
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from local import cloudformation
from tests.harness.built import PARAMETERS, SAM
from tests.harness.rie import free_ports
from tests.sam_local.engine import Engine

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.harness.built import Built

INVOKE_S = 300
START_S = 120
STOP_S = 60
FROM_AWS = ("CORE_SECRET_ARN", "PROVIDERS_SECRET_ARN", "BILLING_SECRET_ARN", "SETTLEMENT_QUEUE_URL")
"""What SAM local would fill with names of resources that are not there."""


class Sam(msgspec.Struct, frozen=True):
    """`sam local`, on a template whose functions know the settings that are in `variables`."""

    engine: Engine
    template: Path
    variables: Path

    def invoke(self, function: str, event: Mapping[str, Any]) -> Any:
        """What a function makes of an event; raises CalledProcessError and TimeoutExpired."""
        done = subprocess.run(
            self._command("invoke", function, "--event", "-"),
            env=self.engine.environment, input=json.dumps(event).encode(),
            stdout=subprocess.PIPE, check=True, timeout=INVOKE_S,
        )  # fmt: skip
        return json.loads(done.stdout)

    @contextmanager
    def api(self) -> Iterator[str]:
        """The address of the template's API while it runs."""
        (port,) = free_ports(1)
        process = subprocess.Popen(
            self._command("start-api", "--port", str(port), "--warm-containers", "LAZY"),
            env=self.engine.environment, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        log = _Log(process)
        try:
            log.await_line("Running on")
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()
            process.wait(STOP_S)
            log.thread.join()

    def _command(self, *arguments: str) -> list[str]:
        """Settings are in a file, where no list of processes shows them."""
        options = ("--skip-pull-image", "--region", cloudformation.REGION, *PARAMETERS)
        return [
            *(*SAM, "local", *arguments, *options),
            *("--template", str(self.template), "--env-vars", str(self.variables)),
        ]


def configured(engine: Engine, built: Built, settings: Mapping[str, str]) -> Sam:
    """SAM local with these settings. It passes a function no variable that its template does not declare."""
    document = cloudformation.read(built.template)
    declared = document["Globals"]["Function"]["Environment"]["Variables"]
    given = {**dict.fromkeys(FROM_AWS, ""), **settings}
    declared |= dict.fromkeys(settings, "")
    template, variables = built.folder / "local.json", built.folder / "variables.json"
    template.write_text(json.dumps(document))
    variables.touch(mode=0o600)
    variables.write_text(json.dumps({"Parameters": given}))
    return Sam(engine, template, variables)


class _Log:
    """What a program says on standard error, passed on to whoever is watching."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process, self._said, self._changed = process, "", threading.Condition()
        self.thread = threading.Thread(target=self._pass_on, daemon=True)
        self.thread.start()

    def await_line(self, text: str) -> None:
        """Returns when the program has said this. Raises AssertionError where it ends, or does not say it in time."""
        with self._changed:
            assert self._changed.wait_for(lambda: text in self._said or not self.thread.is_alive(), START_S), self._said
            assert text in self._said, self._said

    def _pass_on(self) -> None:
        assert self._process.stderr
        with self._process.stderr as lines:
            for line in lines:
                if not line.startswith("Mounting "):  # one for each of a hundred routes
                    print(line, end="", flush=True)
                self._tell(line)
        self._tell("")

    def _tell(self, line: str) -> None:
        with self._changed:
            self._said += line
            self._changed.notify_all()
