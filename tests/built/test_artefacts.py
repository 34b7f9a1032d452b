"""What is deployed: all of it compiled for Lambda, and nothing else in it."""

from __future__ import annotations

import importlib.util
import re
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.harness.built import Built

ROOT = Path(__file__).parents[2]
LIMIT_BYTES = 250_000_000
"""Of a function with its layers, unzipped: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""
UNCHECKED_HASH = (1).to_bytes(4, "little")
"""The flags of bytecode that is used without a look at its source (PEP 552)."""


def normal(distribution: str) -> str:
    return re.sub(r"[-_.]+", "-", distribution).lower()


def modules(folder: Path) -> set[str]:
    """The names that can be imported from a folder."""
    return {path.name.partition(".")[0] for path in folder.iterdir() if path.suffix != ".dist-info"} - {"__pycache__"}


def size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_every_module_is_compiled_and_its_bytecode_is_not_questioned(built: Built):
    sources = list(built.folder.rglob("*.py"))
    assert len(sources) > 1000
    for source in sources:
        compiled = Path(importlib.util.cache_from_source(str(source)))
        assert compiled.exists(), source
        assert compiled.read_bytes()[:8] == importlib.util.MAGIC_NUMBER + UNCHECKED_HASH, source
    assert len(list(built.folder.rglob("*.pyc"))) == len(sources)


def test_a_function_has_the_functions_code_and_its_layers_no_test_and_no_tool(built: Built):
    groups = {path.parent.name for path in (ROOT / "functions").glob("*/handler.py")}
    for name, function in built.functions.items():
        assert modules(function.code) == groups, name
    assert modules(built.folder / "GatewayLayer/python") == {"gateway"}
    asked = (ROOT / "layers/dependencies/requirements.txt").read_text()
    shipped = {normal(name) for name in re.findall(r"^([\w.-]+)==", asked, re.MULTILINE)}
    come_from = packages_distributions()
    for module in modules(built.folder / "DependenciesLayer/python"):
        assert shipped & {normal(name) for name in come_from[module]}, module


def test_a_function_with_its_layers_is_not_too_large(built: Built):
    layers = {opt: size(opt) for opt in {built.opt(name) for name in built.functions}}
    for name, function in built.functions.items():
        assert size(function.code) + layers[built.opt(name)] < LIMIT_BYTES, name
