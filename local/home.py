"""The folder `.gateway/`: what a developer's gateway keeps between runs."""

from __future__ import annotations

import base64
import os
import secrets
import shlex
from collections.abc import Mapping
from pathlib import Path

PASSED_ON = (
    "OPENROUTER_", "PORTKEY_", "FEATHERLESS_", "CHUTES_", "PRIVY_", "SUPABASE_AUTH_", "ALERT_", "PAUSE_KEYS_ON_ALERT",
    "STRIPE_", "PUBLIC_URL", "RETURN_HOSTS", "TRIAL_BLOCKED_DOMAINS",
    "RESEND_", "MAIL_FROM", "API_URL",
    "AUDIT_RETENTION_DAYS",
    "LOG_LEVEL", "OTEL_EXPORTER_",
)  # fmt: skip


SECRETS = ("CORE_SECRET_ARN", "PROVIDERS_SECRET_ARN", "BILLING_SECRET_ARN", "LOGIN_SECRET_ARN")
"""As gateway.settings has them, which reads the environment when it is imported: too early here."""


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

    def settings(self) -> dict[str, str]:
        """The functions' settings; no secret comes from Secrets Manager here."""
        given = {name: value for name, value in os.environ.items() if name.startswith(PASSED_ON)}
        pepper = f"v1:{self.secret('KEY_PEPPER')}"
        sealing_key = base64.urlsafe_b64encode(bytes.fromhex(self.secret("SEALING_KEY"))).decode()
        arns = dict.fromkeys(SECRETS, "")
        return {"STAGE": "dev", "KEY_PEPPERS": pepper, "SEALING_KEYS": sealing_key, **arns, **given}

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
