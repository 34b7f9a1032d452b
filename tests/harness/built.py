"""What `sam build` makes for this machine's own architecture: made once, and laid out as Lambda does."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from local import cloudformation
from local.template import Function, load
from tests.harness.once import once
from tests.harness.rie import ARCHITECTURE, Emulated

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    type Start = Callable[..., Emulated]

ROOT = Path(__file__).parents[2]
BUILD_S = 300
SAM = (str(Path(sys.executable).with_name("sam")),)
PARAMETERS = ("--parameter-overrides", f"Architecture={ARCHITECTURE}")


class Built(msgspec.Struct, frozen=True):
    folder: Path
    """A folder for each function and layer, and template.yaml, which says what belongs together."""

    @property
    def template(self) -> Path:
        return self.folder / "template.yaml"

    @property
    def functions(self) -> dict[str, Function]:
        return {function.name: function for function in load(self.template, "http://127.0.0.1:1").functions}

    def opt(self, function: str) -> Path:
        """A function's layers in one folder, as Lambda lays them out in /opt: later ones over earlier ones."""
        return self.folder.with_name("-".join(["opt", *(layer.name for layer in self.layers(function))]))

    def lay_out(self, function: str) -> None:
        """Make a function's `opt`, unless another with the same layers has made it."""
        opt = self.opt(function)
        if not opt.exists():
            for layer in self.layers(function):
                shutil.copytree(layer, opt, copy_function=os.symlink, dirs_exist_ok=True)
            _settle(opt / "serve")

    def layers(self, function: str) -> list[Path]:
        """The folders of a function's layers, in their order: the Globals' before its own."""
        document = cloudformation.read(self.template)
        resources = document["Resources"]
        own = resources[function]["Properties"].get("Layers", [])
        names = [layer["Ref"] for layer in [*document["Globals"]["Function"]["Layers"], *own]]
        return [(self.folder / resources[name]["Properties"]["ContentUri"]).resolve() for name in names]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The result of a build from clean."""
    return Built(once(tmp_path_factory, "sam", _build) / "built")


def _build(folder: Path) -> None:
    done = subprocess.run(
        [*SAM, "build", "--build-dir", str(folder / "built"), *PARAMETERS],
        cwd=ROOT,
        env=os.environ | {"ARCH": ARCHITECTURE, "SAM_CLI_TELEMETRY": "0"},
        capture_output=True, text=True, check=False, timeout=BUILD_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    built = Built(folder / "built")
    for function in built.functions:
        built.lay_out(function)


@pytest.fixture(scope="session")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter that finds no package but those that it is told of."""
    folder = tmp_path_factory.mktemp("python")
    venv.create(folder, symlinks=True)
    return folder / "bin" / "python"


@pytest.fixture
def start(built: Built, bare_python: Path) -> Iterator[Start]:
    """Starts a built function under AWS's emulator, with variables of its own; all end with the test."""
    started: list[Emulated] = []

    def one(name: str, **variables: str) -> Emulated:
        started.append(_emulated(built, name, str(bare_python), variables))
        return started[-1]

    try:
        yield one
    finally:
        for emulated in started:
            emulated.stop()


def _settle(wrapper: Path) -> None:
    """Let an exec wrapper know where its /opt is."""
    if wrapper.exists():
        text, mode = wrapper.read_text(), wrapper.stat().st_mode
        assert text.count("/opt/") == 1
        wrapper.unlink()
        wrapper.write_text(text.replace("/opt/", f"{wrapper.parent}/"))
        wrapper.chmod(mode)


def _emulated(built: Built, name: str, python: str, variables: Mapping[str, str]) -> Emulated:
    function, opt = built.functions[name], built.opt(name)
    bootstrap = [python, "-m", "awslambdaric", function.handler]
    environment = {
        **function.environment,
        "LAMBDA_TASK_ROOT": str(function.code),
        "LAMBDA_RUNTIME_DIR": "/var/runtime",
        "PYTHONPATH": f"{function.code}:{opt / 'python'}",
        "AWS_LAMBDA_FUNCTION_HANDLER": function.handler,
        "AWS_LAMBDA_FUNCTION_TIMEOUT": str(int(function.timeout_s)),
        **variables,
    }
    return Emulated([str(opt / "serve"), *bootstrap] if function.streams else bootstrap, function.code, environment)
