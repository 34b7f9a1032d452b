"""The functions as Lambda starts them: each question in a Python process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    "PYTHONPATH": f"{ROOT / 'functions'}:{ROOT / 'shared'}",
    "PATH": "/usr/bin:/bin",
    "STAGE": "dev",
    "DATABASE_URL": "postgresql://gateway@127.0.0.1:1/gateway",
    "KEY_PEPPERS": "v1:a-pepper-for-tests-only",
    "AWS_REGION": "us-east-1",
    "STRIPE_SECRET_KEY": "sk_test_only",
    "STRIPE_WEBHOOK_SECRET": "whsec_only_for_tests",
}

ROUTES = """
import importlib, json
app = importlib.import_module({module!r}).app
if hasattr(app, "openapi"):
    found = [(method, path) for path, item in app.openapi()["paths"].items() for method in item]
else:
    found = [(method, route.path) for route in app.routes for method in route.methods]
print(json.dumps(found))
"""


def run_python(code: str) -> str:
    """What a program prints, run with the settings of a function and nothing else."""
    done = ended(code)
    assert done.returncode == 0, done.stderr
    return done.stdout


def ended(code: str, **changes: str) -> subprocess.CompletedProcess[str]:
    """How a program ended, run with the settings of a function and these changes."""
    return subprocess.run(
        [sys.executable, "-c", code],
        env=ENVIRONMENT | changes, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@cache
def routes_of(group: str) -> set[tuple[str, str]]:
    """(method, path) of each route of a group's app, with `{}` for what varies; HEAD comes with GET."""
    found = json.loads(run_python(ROUTES.format(module=f"{group}.handler")))
    return {
        (method.upper(), "/".join("{}" if part.startswith("{") else part for part in path.split("/")))
        for method, path in found
        if method.upper() != "HEAD"
    }
