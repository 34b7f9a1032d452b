"""The rules of taste that ruff cannot say. Each failure names its file and line."""

from __future__ import annotations

import ast
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
PYTHON = sorted(
    path
    for top in ("shared", "functions", "local", "container", "bench", "tests")
    for path in (ROOT / top).rglob("*.py")
)
API = [path for path in sorted((ROOT / "supabase/api").glob("*.sql")) if path.name != "apply.sql"]
MONEY = ("shared/gateway/money.py", "shared/gateway/credits.py", "shared/gateway/inference/metering.py")
LONGEST_FUNCTION = 60
LONGEST_FILE = 400
BANNED = {
    "common", "enhanced", "final", "helper", "helpers", "intelligent", "legacy", "manager", "misc", "new", "old",
    "smart", "temp", "unified", "util", "utils", "v2",
}  # fmt: skip
"""Words that say when or for whom something was written, not what it is."""
FUNCTION = re.compile(r"^create function api\.(?P<name>\w+)(?P<head>.*?)\bas \$\$", re.MULTILINE | re.DOTALL)


def at(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def names(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every name that a module gives to something, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, node.lineno
            case ast.arg():
                yield node.arg, node.lineno
            case ast.Name(ctx=ast.Store()):
                yield node.id, node.lineno


def words(name: str) -> set[str]:
    """The words of a snake_case or CamelCase name; of a __special__ one, which Python named, none."""
    if name.startswith("__"):
        return set()
    return set(re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower().split("_"))


def test_there_is_something_to_check() -> None:
    assert len(PYTHON) > 30
    assert len(API) > 5
    assert all((ROOT / path).exists() for path in MONEY)


@pytest.mark.parametrize("path", PYTHON, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_and_files_are_short(path: Path) -> None:
    lines = path.read_text().count("\n")
    assert lines <= LONGEST_FILE, f"{at(path, lines)} has {lines} lines"
    long = [
        f"{at(path, node.lineno)} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno >= LONGEST_FUNCTION
    ]
    assert not long


def test_names_say_what_things_are() -> None:
    files = [at(path, 1) for path in (*PYTHON, *(ROOT / "supabase").rglob("*.sql")) if words(path.stem) & BANNED]
    named = [
        f"{at(path, line)} {name}"
        for path in PYTHON
        if not path.is_relative_to(ROOT / "tests")
        for name, line in names(parsed(path))
        if words(name) & BANNED
    ]
    assert not files + named


@pytest.mark.parametrize("path", MONEY)
def test_no_float_touches_money(path: str) -> None:
    """To recognise a float, `isinstance(value, float)`, is not to use one."""
    nodes = list(ast.walk(parsed(ROOT / path)))
    recognised = {
        each
        for node in nodes
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "isinstance"
        for each in ast.walk(node)
    }
    floats = [
        at(ROOT / path, node.lineno)
        for node in nodes
        if (isinstance(node, ast.Name) and node.id == "float" and node not in recognised)
        or (isinstance(node, ast.Constant) and isinstance(node.value, float))
        or (isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div))
    ]
    assert not floats


@pytest.mark.parametrize("path", API, ids=lambda path: path.stem)
def test_sql_functions_keep_the_rules_of_their_schema(path: Path) -> None:
    """What others may call runs as the tables' owner, with nothing to be misled by; its parts run as it does."""
    text = path.read_text()
    functions = list(FUNCTION.finditer(text))
    assert len(functions) == len(re.findall(r"^\s*create .*\bfunction\b", text, re.MULTILINE | re.IGNORECASE))
    for function in functions:
        where = f"{at(path, text.count('\n', 0, function.start()) + 1)} api.{function['name']}"
        assert text[: function.start()].splitlines()[-1].startswith("-- "), f"{where} says not what it promises"
        is_granted = f"grant execute on function api.{function['name']} to" in text
        assert ("security definer set search_path = ''" in function["head"]) == is_granted, where


def test_only_named_roles_may_call_an_sql_function() -> None:
    """The tables' owner may call each; others, what a grant names. Nothing is granted that is not there."""
    text = "\n".join(path.read_text() for path in API)
    defined = set(re.findall(r"^create function api\.(\w+)", text, re.MULTILINE))
    grants = dict(re.findall(r"grant execute on function api\.(\w+)(?:\([^)]*\))? to ([\w, \n]+);", text))
    assert grants.keys() <= defined
    roles = {role.strip() for listed in grants.values() for role in listed.split(",")}
    groups = (
        "account", "admin", "auth", "billing", "catalog", "chat", "health", "history", "jobs", "stripe_webhook",
        "trials",
    )  # fmt: skip
    assert roles <= {"service_role", *(f"gateway_{group}" for group in groups)}


def test_each_database_call_is_an_sql_function_that_its_callers_may_use() -> None:
    text = "\n".join(path.read_text() for path in API)
    granted = set(re.findall(r"grant execute on function api\.(\w+)", text))
    called = {
        (at(path, node.lineno), node.args[0].value)
        for path in PYTHON
        if path.is_relative_to(ROOT / "shared") or path.is_relative_to(ROOT / "functions")
        for node in ast.walk(parsed(path))
        if isinstance(node, ast.Call)
        and ast.unparse(node.func) == "database.call"
        and isinstance(node.args[0], ast.Constant)
    }
    assert called
    assert not {(where, name) for where, name in called if name not in granted}


@pytest.mark.parametrize("path", API, ids=lambda path: path.stem)
def test_no_sql_is_made_at_run_time(path: Path) -> None:
    text = re.sub(r"--.*", "", path.read_text())
    dynamic = re.finditer(r"\bexecute\s+(?!on\b)", text, re.IGNORECASE)
    assert not [at(path, text.count("\n", 0, found.start()) + 1) for found in dynamic]
