"""docs/limits.md says what the code enforces."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parent.parent.parent / "docs" / "limits.md"
ROW = re.compile(
    r"^\| (?P<limit>[^|]+) \| (?P<value>[0-9.]+) \| [a-z]+ \| `(?P<module>[a-z_.]+)\.(?P<name>[A-Z_]+)` \|$"
)
ROWS = [row for line in PAGE.read_text().splitlines() if (row := ROW.match(line))]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["limit"])
def test_a_limit_is_what_the_code_enforces(row: re.Match[str]):
    assert getattr(importlib.import_module(row["module"]), row["name"]) == float(row["value"])


def test_every_row_is_read():
    assert len(ROWS) == PAGE.read_text().count("\n| ") - 1
