"""The image that SAM local runs a Python function in: AWS's where it can be had, else one with the same inside.

Ours has what SAM and the runtime ask for and nothing besides: the interpreter that runs this, its library,
awslambdaric, and the shell and the four programs that SAM builds its own images with. All of it is this machine's, so
it can be made on any Linux with glibc, without a network. The system's libraries are not those of Amazon Linux.
"""

from __future__ import annotations

import io
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.sam_local.engine import Engine

PULL_S = 300
IMPORT_S = 120
PROGRAMS = ("sh", "cp", "mv", "rm", "chmod")
RUNTIME = ("awslambdaric", "snapshot_restore_py.py")
NEVER_IMPORTED = {"test", "idlelib", "tkinter", "turtledemo", "lib2to3", "ensurepip", "site-packages", "__pycache__"}
LANG = "/var/lang"
PYTHON = f"{LANG}/bin/python3.13"
BOOTSTRAP = f"""#!/bin/sh
export PYTHONPATH="$LAMBDA_TASK_ROOT:/opt/python:$LAMBDA_RUNTIME_DIR"
exec $AWS_LAMBDA_EXEC_WRAPPER {PYTHON} -m awslambdaric "$_HANDLER"
"""
"""Where SAM's emulator starts a function, as in AWS's image."""
CONFIGURATION = (
    "WORKDIR /var/task",
    f"ENV PATH={LANG}/bin:/bin",
    f"ENV LD_LIBRARY_PATH={LANG}/lib",
    "ENV LAMBDA_TASK_ROOT=/var/task",
    "ENV LAMBDA_RUNTIME_DIR=/var/runtime",
    "ENV LANG=C.UTF-8",
    "ENV TZ=:UTC",
)


def name(architecture: str) -> str:
    """What SAM calls it."""
    return f"public.ecr.aws/lambda/python:3.13-{architecture}"


def provide(engine: Engine, architecture: str, libraries_of: Path) -> bool:
    """Have the engine have it; returns whether it is one of ours, which runs what is under `libraries_of` besides."""
    image = name(architecture)
    if engine.docker("image", "inspect", image, check=False).returncode == 0:
        return False
    if engine.docker("pull", "--quiet", image, check=False, timeout=PULL_S).returncode == 0:
        return False
    changes = [part for line in CONFIGURATION for part in ("--change", line)]
    engine.docker("import", *changes, "-", image, stdin=_archive(libraries_of), timeout=IMPORT_S)
    return True


def _archive(libraries_of: Path) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for path, target in _files(libraries_of):
            archive.add(path.resolve(), target.lstrip("/"))
        script = tarfile.TarInfo("var/runtime/bootstrap")
        script.size, script.mode = len(BOOTSTRAP), 0o755
        archive.addfile(script, io.BytesIO(BOOTSTRAP.encode()))
        for folder, mode in (("tmp", 0o1777), ("var/task", 0o755), ("opt", 0o755)):
            empty = tarfile.TarInfo(folder)
            empty.type, empty.mode = tarfile.DIRTYPE, mode
            archive.addfile(empty)
    return made.getvalue()


def _files(libraries_of: Path) -> Iterator[tuple[Path, str]]:
    """Each file of the image and its place there."""
    interpreter, standard = Path(sys.executable).resolve(), Path(sysconfig.get_path("stdlib"))
    programs = [Path(str(shutil.which(program))) for program in PROGRAMS]
    modules = [path for path in standard.rglob("*") if path.is_file() and _is_needed(path.relative_to(standard))]
    yield interpreter, PYTHON
    yield from ((path, f"/bin/{path.name}") for path in programs)
    yield from ((path, f"{LANG}/lib/python3.13/{path.relative_to(standard)}") for path in modules)
    packages = Path(sysconfig.get_path("purelib"))
    yield from ((packages / part, f"/var/runtime/{part}") for part in RUNTIME)
    compiled = [path for path in [*modules, *libraries_of.rglob("*.so*")] if ".so" in path.suffixes]
    yield from _libraries([interpreter, *programs, *compiled])


def _is_needed(path: Path) -> bool:
    return NEVER_IMPORTED.isdisjoint(path.parts) and not path.parts[-1].startswith("_tkinter.")


def _libraries(programs: Iterable[Path]) -> Iterator[tuple[Path, str]]:
    """The system's libraries that these are linked with, all in one folder, and the loader where they look for it."""
    told = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False).stdout
    for loader in set(re.findall(r"^\t(/\S*ld-linux\S*) \(", told, re.MULTILINE)):
        yield Path(loader), loader
    for library in set(re.findall(r"=> (/\S+) \(", told)):
        yield Path(library), f"{LANG}/lib/{Path(library).name}"
