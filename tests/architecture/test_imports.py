"""What a cold start imports. Counts are stable where milliseconds are not; `make bench` prints those."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.architecture.functions import ROOT, run_python

pytestmark = pytest.mark.process

HEAVY = {"aws_xray_sdk", "boto3", "botocore", "openai", "requests", "resend", "stripe"}
"""Each costs 115 to 490 ms; no function that a caller waits for needs one to start."""
SECOND_CLIENTS = {"fastapi", "httpx", "supabase"}
"""What inference does without: one framework, one HTTP client, one database transport."""
MOST_MODULES = 450


def imported_by(module: str) -> set[str]:
    """The modules that an import adds to those of a bare interpreter."""
    code = f"import sys; bare = set(sys.modules); import {module}; print(*set(sys.modules) - bare)"
    return set(run_python(code).split())


def test_the_chat_function_starts_light() -> None:
    modules = imported_by("chat.handler")
    assert not modules & (HEAVY | SECOND_CLIENTS)
    assert len(modules) <= MOST_MODULES


@pytest.mark.parametrize("group", ["account", "catalog", "health"])
def test_no_function_that_a_caller_waits_for_imports_what_a_cold_start_cannot_afford(group: str) -> None:
    assert not imported_by(f"{group}.handler") & HEAVY


def test_the_runtime_itself_is_light() -> None:
    assert not imported_by("gateway.http.streaming") & (HEAVY | SECOND_CLIENTS)


def test_every_module_has_its_place_in_the_import_contract() -> None:
    linter = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    placed = {module for layer in linter["contracts"][0]["layers"] for module in re.findall(r"[\w.]+", layer)}
    modules = {f"gateway.{path.stem}" for path in (ROOT / "shared/gateway").glob("[!_]*")}
    groups = {path.name for path in (ROOT / "functions").glob("[!_]*")}
    assert placed == modules | groups
    assert set(linter["root_packages"]) == groups | {"gateway"}
