"""docs/limits.md says what the code enforces, and leaves no limit of the code out."""

from __future__ import annotations

import ast
import importlib
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "limits.md"
ROW = re.compile(
    r"^\| (?P<limit>[^|]+) \| (?P<value>[0-9.]+) \| [a-z]+ \| `(?P<module>[a-z_.]+)\.(?P<name>[A-Z_]+)` \|$"
)
QUOTED = re.compile(r"^\| (?P<limit>[^|]+) \| `(?P<file>[^`]+)` \| `(?P<text>[^`]+)` \|$")
LINES = PAGE.read_text().splitlines()
ROWS = [row for line in LINES if (row := ROW.match(line))]
QUOTES = [row for line in LINES if (row := QUOTED.match(line))]
LIMIT = re.compile(r"(MAX|MOST|LEAST)_\w+|\w+_(S|MS|BYTES|DAYS|HOURS|MINUTES)|TRIES|CONNECTIONS|BATCH|MAX|MOST|LEAST")
NO_LIMITS = {
    "account.keys.HOUR_S": "a unit",
    "auth.routes.HOUR_S": "a unit",
    "admin.usage.DEFAULT_DAYS": "what is shown unless other days are named",
    "gateway.http.room.PAUSE_MS": "when a client may try again",
    "gateway.database.PAUSE_S": "how long a try waits",
    "gateway.database.postgres.IDLE_S": "after which a connection is replaced",
    "gateway.database.supabase.KEEP_ALIVE_S": "after which a connection is replaced",
    "gateway.outbox.MAILS_S": "the second of MOST_MAILS",
    "gateway.outbox.LEASE_S": "how long a delivery is one sender's",
    "gateway.outbox.WAIT_S": "how long a try waits",
    "gateway.settlements.RETRY_S": "how long a try waits",
    "gateway.public_keys.FRESH_S": "when keys are read again",
    "gateway.public_keys.KEPT_S": "when keys are read again",
    "gateway.public_keys.UNKNOWN_PAUSE_S": "when keys are read again",
    "gateway.public_keys.FAILURE_PAUSE_S": "when keys are read again",
    "gateway.reconciliation.WINDOW_S": "how Stripe's entries are read",
    "gateway.reconciliation.OVERLAP_S": "how Stripe's entries are read",
    "gateway.reconciliation.OPEN_MINUTES": "when a payment is looked at",
    "gateway.webhooks.SECRET_BYTES": "of a secret that is made",
    "gateway.providers.sandbox.SLOW_S": "what the sandbox plays",
    "gateway.providers.sandbox.NEVER_S": "what the sandbox plays",
    "gateway.providers.sandbox.MAX_SCHEMA_DEPTH": "what the sandbox plays",
    "catalog.routes.MAX_AGE": "a header's value",
}
"""Constants that are named like limits, and what they are."""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["limit"])
def test_a_limit_is_what_the_code_enforces(row: re.Match[str]):
    assert getattr(importlib.import_module(row["module"]), row["name"]) == (
        float(row["value"]) if "." in row["value"] else int(row["value"])
    )


@pytest.mark.parametrize("row", QUOTES, ids=lambda row: row["limit"])
def test_a_limit_stands_where_it_is_quoted_from(row: re.Match[str]):
    assert row["text"] in (ROOT / row["file"]).read_text()


def test_every_row_is_read():
    assert len(ROWS) + len(QUOTES) == PAGE.read_text().count("\n| ") - 2


def constants() -> Iterator[str]:
    """Every constant of the product that is named like a limit."""
    for root in ("shared", "functions"):
        for path in sorted((ROOT / root).rglob("*.py")):
            module = ".".join(path.relative_to(ROOT / root).with_suffix("").parts).removesuffix(".__init__")
            for node in ast.parse(path.read_text()).body:
                targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
                for target in targets:
                    for each in target.elts if isinstance(target, ast.Tuple) else [target]:
                        if isinstance(each, ast.Name) and LIMIT.fullmatch(each.id):
                            yield f"{module}.{each.id}"


def test_no_limit_is_left_out():
    told = {f"{row['module']}.{row['name']}" for row in ROWS}
    found = set(constants())
    assert found - told - NO_LIMITS.keys() == set()
    assert NO_LIMITS.keys() <= found - told
