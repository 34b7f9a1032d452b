"""What is in the image, and that it is all the gateway needs: read-only, and as nobody in particular."""

from __future__ import annotations

import os
import pickle
import re
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import httpx
import pytest

from tests.container.image import Stage, build
from tests.container.process import ROOT, started
from tests.harness.gateway import NOBODY, provider, with_password
from tests.harness.once import once

if TYPE_CHECKING:
    from pathlib import Path

    from tests.harness.postgres import Database

SECRET = "never-in-an-image"
PLANTED = (
    ".env",
    ".git/config",
    ".gateway/env",
    "functions/chat/.env",
    "shared/gateway/.aws/credentials",
    "functions/chat/__pycache__/handler.cpython-313.pyc",
    "container/kubernetes/secret.yaml",
    "local/notes.txt",
)
NOT_COPIED = shutil.ignore_patterns(".git", ".venv", ".aws-sam", ".gateway", "*_cache", ".hypothesis", "node_modules")
MOST_MB = 140
UNCHECKED_HASH = b"\1\0\0\0"


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The built image, from a working copy in which secrets lie about."""
    if os.geteuid() != 0 or shutil.which("unshare") is None:
        pytest.skip("a process can be rooted in a folder by root alone, on Linux")
    folder = once(tmp_path_factory, "image", _build)
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)  # pytest's folders are their owner's alone
    stage: Stage = pickle.loads((folder / "stage").read_bytes())  # noqa: S301 - of a worker of this run
    return stage


def _build(folder: Path) -> None:
    context = folder / "context"
    shutil.copytree(ROOT, context, ignore=NOT_COPIED)
    for name in PLANTED:
        (context / name).parent.mkdir(parents=True, exist_ok=True)
        (context / name).write_text(SECRET)
    built = build(context, folder)
    (folder / "files").write_text("\n".join(built.files()))
    built.furnish()
    (folder / "stage").write_bytes(pickle.dumps(built))


def files(image: Stage) -> list[str]:
    return (image.root.parent / "files").read_text().splitlines()


def test_it_has_the_product_and_nothing_else(image: Stage):
    own = [file.removeprefix("app/") for file in files(image) if not file.startswith("packages/")]
    sources = {file for file in own if "__pycache__" not in file}
    there = {str(path.relative_to(ROOT)) for top in ("shared", "functions") for path in (ROOT / top).rglob("*.py")}
    there |= {str(path.relative_to(ROOT)) for path in (ROOT / "container").glob("*.py")}
    there |= {f"local/{name}.py" for name in ("__init__", "cloudformation", "invocation", "schedules", "template")}
    assert sources == there | {"template.yaml"}
    assert len(own) == 2 * len(sources) - 1  # each module has its bytecode


def test_no_secret_that_lay_about_got_in(image: Stage):
    own = [file for file in files(image) if file.startswith("app/")]
    assert own
    assert not [file for file in own if SECRET.encode() in (image.root / file).read_bytes()]


def test_bytecode_is_there_and_never_looked_behind(image: Stage):
    compiled = [file for file in files(image) if file.endswith(".pyc")]
    assert len(compiled) > 1000
    assert {(image.root / file).read_bytes()[4:8] for file in compiled} == {UNCHECKED_HASH}


def test_it_is_small(image: Stage):
    assert sum((image.root / file).stat().st_size for file in files(image)) < MOST_MB << 20


def test_it_stops_as_it_should_and_is_nobody_in_particular(image: Stage):
    assert re.fullmatch(r"[1-9]\d{3,}:[1-9]\d{3,}", image.said["USER"])
    assert (image.command, image.said["STOPSIGNAL"]) == (["python", "-m", "container"], "SIGTERM")
    assert image.said["EXPOSE"] == image.environment["PORT"]


async def test_it_serves_from_a_file_system_that_it_cannot_write(image: Stage, database: Database):
    settings = image.variables() | {"PORT": "0", "DATABASE_URL": with_password(database.service)}
    async with started(*image.starting(*image.command), **settings) as process:
        port = (await process.logged("listening"))["port"]
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://127.0.0.1:{port}/health")
        assert (answer.status_code, answer.json()["database"]) == (200, "connected")
        assert health(image, port) == 0
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0
        assert health(image, port) != 0
    assert process.errors == ""


def health(image: Stage, port: int) -> int:
    """How the image's health check ends."""
    line = image.starting(*image.health)
    done = subprocess.run(line, env=image.variables() | {"PORT": str(port)}, capture_output=True, check=False)
    return done.returncode


async def test_it_runs_the_schedules(image: Stage):
    nowhere = provider("openrouter", "http://127.0.0.1:1") | provider("chutes", "http://127.0.0.1:1")
    line = image.starting(*image.command[:2], "container.jobs")
    async with started(*line, **image.variables(), **nowhere, DATABASE_URL=NOBODY) as process:
        await process.logged("schedules_started")
        process.signal(signal.SIGTERM)
        assert await process.ended() == 0


def test_what_runs_in_it_can_write_nowhere_and_see_nothing_else(image: Stage):
    tried = "for each in / /app /packages /tmp; do touch $each/file 2>/dev/null && echo $each; done; id -u; ls /"
    done = subprocess.run(
        image.starting("sh", "-c", tried), env=image.variables(), capture_output=True, text=True, check=False
    )
    user, *seen = done.stdout.split()
    assert user == image.said["USER"].partition(":")[0]
    assert {"app", "packages"} <= set(seen) <= {"app", "packages", "usr", "bin", "lib", "lib64", "root", "home", "opt"}


def pins(name: str) -> set[str]:
    """The packages of a requirements file with their versions."""
    return set(re.findall(r"^[\w.-]+==[^\s;]+", (ROOT / name).read_text(), re.MULTILINE))


def test_its_packages_are_those_that_are_tested():
    ours = pins("requirements/container.txt")
    assert pins("layers/dependencies/requirements.txt") < ours < pins("requirements/dev.txt")
