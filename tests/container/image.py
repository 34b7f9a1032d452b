"""container/Dockerfile without Docker: what it says is done in a folder, with this machine's Python as the base image.

COPY obeys .dockerignore, by Docker's own client. What is started from the folder is rooted in it, cannot write
anywhere, and is the user that the image names.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from docker.utils.build import exclude_paths

if TYPE_CHECKING:
    from collections.abc import Iterator

BASE = "python:3.13-slim"
PYTHON = Path(sys.base_prefix)
SYSTEM = ("usr", "bin", "lib", "lib64")
MOUNT = """
set -e
root=$1; user=$2; shift 2
mount --bind "$root" "$root"
for each in $MOUNTED; do mount --rbind "/$each" "$root/$each"; done
mount -o remount,bind,ro "$root"
exec chroot --userspec="$user" "$root" sh -c 'cd "$0" && exec "$@"' "$@"
"""


@dataclass
class Stage:
    """A stage of the build, and what its other instructions `said`."""

    root: Path
    workdir: str = "/"
    environment: dict[str, str] = field(default_factory=dict)
    said: dict[str, str] = field(default_factory=dict)

    @property
    def command(self) -> list[str]:
        command: list[str] = json.loads(self.said["CMD"])
        return command

    @property
    def health(self) -> list[str]:
        command: list[str] = json.loads(self.said["HEALTHCHECK"].partition(" CMD ")[2])
        return command

    def path(self, inside: str) -> Path:
        """Where a path of the image is here."""
        return self.root / os.path.normpath(f"{self.workdir}/{inside}" if inside[0] != "/" else inside).lstrip("/")

    def files(self) -> list[str]:
        """What the build put into the image."""
        return sorted(str(path.relative_to(self.root)) for path in self.root.rglob("*") if path.is_file())

    def starting(self, *command: str) -> tuple[str, ...]:
        """The command line that runs a command in the image."""
        return (
            "unshare",
            "--mount",
            "sh",
            "-c",
            MOUNT,
            "sh",
            str(self.root),
            self.said["USER"],
            self.workdir,
            *command,
        )

    def variables(self) -> dict[str, str]:
        """The environment of what is started: the base image's and the image's own."""
        mounted = " ".join(name for name in (*SYSTEM, str(PYTHON)[1:]) if not Path(f"/{name}").is_symlink())
        return {"PATH": f"{PYTHON}/bin:/usr/sbin:/usr/bin:/sbin:/bin", "MOUNTED": mounted, **self.environment}

    def furnish(self) -> None:
        """Make the places where the base image is mounted."""
        for name in SYSTEM:
            here = Path(f"/{name}")
            if here.is_symlink():
                (self.root / name).symlink_to(here.readlink())
            elif here.exists():
                (self.root / name).mkdir()
        (self.root / str(PYTHON)[1:]).mkdir(parents=True, exist_ok=True)


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """The instructions of a Dockerfile."""
    lines = "\n".join(line for line in text.splitlines() if not line.startswith("#"))
    for line in lines.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, argument = line.partition(" ")
            yield name, argument.strip()


def build(context: Path, folder: Path) -> Stage:
    """Build the image of a context's container/Dockerfile; what it has is in the last stage's root."""
    stages: dict[str, Stage] = {}
    stage = Stage(folder)
    for name, argument in instructions((context / "container/Dockerfile").read_text()):
        if name == "FROM":
            image, _, alias = argument.partition(" AS ")
            assert image == BASE, f"{image} is not what this test stands on"
            stage = stages[alias] = Stage(folder / (alias or "image"))
            stage.root.mkdir()
        else:
            _carry_out(name, argument, stage, stages, context)
    return stage


def _carry_out(name: str, argument: str, stage: Stage, stages: dict[str, Stage], context: Path) -> None:
    match name:
        case "COPY":
            _copy(argument, stage, stages, context)
        case "RUN":
            here = re.sub(r"(?<=\s)/(?=\w)", f"{stage.root}/", argument)
            path = f"{PYTHON}/bin:{os.environ['PATH']}"
            subprocess.run(here, shell=True, check=True, env={**os.environ, "PATH": path})  # noqa: S602 - as Docker does
        case "WORKDIR":
            stage.workdir = argument
            stage.path(".").mkdir(parents=True, exist_ok=True)
        case "ENV":
            stage.environment |= dict(pair.split("=", 1) for pair in shlex.split(argument))
        case _:
            stage.said[name] = argument


def _copy(argument: str, stage: Stage, stages: dict[str, Stage], context: Path) -> None:
    *sources, to = argument.split()
    origin, taken = context, None
    if sources[0].startswith("--from="):
        origin = stages[sources.pop(0).removeprefix("--from=")].root
    else:
        rules = [line for line in (context / ".dockerignore").read_text().splitlines() if line and line[0] != "#"]
        taken = exclude_paths(str(context), rules)
    assert to.endswith("/"), "what it copies to is a folder"
    for source in sources:
        found = list(origin.glob(source.strip("/")))
        assert found, f"there is no {source}"
        for path in found:
            _put(path, stage.path(to), origin, taken)


def _put(path: Path, to: Path, origin: Path, taken: set[str] | None) -> None:
    """A file goes into the folder, and of a folder what is in it."""
    for file in [path] if path.is_file() else path.rglob("*"):
        if file.is_file() and (taken is None or str(file.relative_to(origin)) in taken):
            target = to / (file.name if path.is_file() else file.relative_to(path))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
