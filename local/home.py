"""The folder `.gateway/`: what a developer's gateway keeps between runs."""

from __future__ import annotations

import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path


class Home:
    """Secrets are made once and kept (keys would stop working without their pepper); `env` is for the shell."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, exist_ok=True)
        self.folder = folder

    @property
    def database(self) -> Path:
        return self.folder / "postgres"

    def secret(self, name: str) -> str:
        """A secret of this machine by its name, made at the first asking."""
        kept = _read(self.folder / "secrets")
        if name not in kept:
            _write(self.folder / "secrets", kept | {name: secrets.token_hex(32)})
        return _read(self.folder / "secrets")[name]

    def env(self) -> dict[str, str]:
        """What the last run told the developer's shell; empty before the first."""
        return _read(self.folder / "env")

    def tell(self, env: Mapping[str, str]) -> Path:
        """Write the file that `set -a; . .gateway/env` reads."""
        _write(self.folder / "env", env)
        return self.folder / "env"


def _read(file: Path) -> dict[str, str]:
    if not file.exists():
        return {}
    pairs = (line.partition("=") for line in file.read_text().splitlines() if "=" in line)
    return {name: "".join(shlex.split(value)) for name, _, value in pairs}


def _write(file: Path, values: Mapping[str, str]) -> None:
    file.touch(mode=0o600, exist_ok=True)
    file.write_text("".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items()))
