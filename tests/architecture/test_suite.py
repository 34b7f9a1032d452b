"""The suite itself: what a test may cost, and how a run ends that went wrong."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
SLOW = {
    "tests/chaos/test_chaos.py::test_every_answer_is_paid_and_the_gateway_comes_back_from_every_fault",
    "tests/properties/test_books.py::test_the_books_are_as_their_model",
    "tests/properties/test_exactness.py::test_a_million_charges_are_exact",
    "tests/properties/test_ledger.py::test_the_ledger_is_as_its_model",
    "tests/security/test_authorization.py::test_without_one_good_key_nothing_is_asked",
}
"""The tests that may take more than 20 seconds. One more has to be worth it to everybody who waits."""
SMALL = """
import os, signal
import pytest

@pytest.mark.parametrize("number", range(8))
def test_one(number):
    if number == 5:
        {end}
"""


def marked() -> Iterator[tuple[str, ast.Call]]:
    """Every use of the mark `slow`, by its test."""
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            for each in getattr(node, "decorator_list", ()):
                if isinstance(each, ast.Call) and ast.unparse(each.func) == "pytest.mark.slow":
                    assert isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
                    yield f"{path.relative_to(ROOT)}::{node.name}", each


def test_every_slow_test_is_counted_and_says_why() -> None:
    found = dict(marked())
    assert found.keys() == SLOW
    for name, mark in found.items():
        (reason,) = mark.args
        assert isinstance(reason, ast.Constant), name
        assert len(str(reason.value)) > 20, name


def run(folder: Path, end: str) -> subprocess.CompletedProcess[str]:
    """How a small suite ends on two workers, one of whose tests ends like this."""
    (folder / "test_small.py").write_text(SMALL.format(end=end))
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-c",
        "/dev/null",
        "--rootdir",
        str(folder),
    ]
    options = [
        "-p",
        "tests.harness.progress",
        "--progress",
        "-n",
        "2",
        "--dist",
        "worksteal",
        "--max-worker-restart",
        "0",
    ]
    return subprocess.run(
        [*command, *options, str(folder)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=300
    )


@pytest.mark.process
def test_a_run_whose_worker_dies_fails(tmp_path: Path) -> None:
    done = run(tmp_path, "os.kill(os.getpid(), signal.SIGKILL)")
    assert done.returncode != 0
    assert "test_one[5]" in done.stdout


@pytest.mark.process
def test_a_failure_is_named_when_it_happens_and_the_last_line_is_pytests(tmp_path: Path) -> None:
    done = run(tmp_path, "assert number == 6, 'why it failed'")
    lines = done.stdout.splitlines()
    named = next(at for at, line in enumerate(lines) if line.startswith("FAILED") and "why it failed" in line)
    assert any("of 8" in line and "to go" in line for line in lines[:named]), "how far it was before"
    assert any(line.startswith("FAILED") and "test_one[5]" in line for line in lines[-3:]), "and again at the end"
    assert lines[-1].startswith("1 failed, 7 passed in")
    assert done.returncode == 1
