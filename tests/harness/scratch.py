"""Folders in memory for what a test run writes and never needs again."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

MEMORY = Path("/dev/shm")  # noqa: S108 - Linux's folder in memory; the folders in it have random names
ROOM_BYTES = 2 << 30
"""What must be free there: a worker's Postgres takes some 200 MB. Docker gives its containers 64 MB."""
REMOVE = 'read -r _; while [ -e "$0" ]; do rm -rf -- "$0"; sleep 0.1; done'
"""Removes the folder $0 once nobody holds this shell's standard input, even while a server in it is still stopping."""


@contextmanager
def scratch(name: str) -> Iterator[Path]:
    """A new folder, in memory where there is room and on disk elsewhere, removed however this process ends."""
    folder = Path(tempfile.mkdtemp(prefix=f"gatewayz-{name}-", dir=_memory()))
    folder.chmod(0o711)  # Postgres may run as another user
    command = ["sh", "-c", REMOVE, str(folder)]
    try:
        guard = subprocess.Popen(command, stdin=subprocess.PIPE, cwd="/", start_new_session=True)
    except BaseException:
        folder.rmdir()
        raise
    try:
        yield folder
    finally:
        guard.communicate()


def _memory() -> Path | None:
    return MEMORY if MEMORY.is_dir() and shutil.disk_usage(MEMORY).free > ROOM_BYTES else None
