"""What is deployed: all of it compiled for Lambda, and nothing else in it."""

from __future__ import annotations

import importlib.util
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.harness.built import merged

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.built import Built

ROOT = Path(__file__).parents[2]
LAMBDA_LIMIT_BYTES = 250 * 2**20
"""Of a function with its layers, unzipped: https://docs.aws.amazon.com/lambda/latest/dg/gettingstarted-limits.html"""
UNCHECKED_HASH = (1).to_bytes(4, "little")
"""The flags of bytecode that is used without a look at its source (PEP 552)."""


def sources(built: Built) -> Iterator[Path]:
    for path in built.folder.rglob("*.py"):
        yield path


def test_every_module_is_compiled_and_its_bytecode_is_not_questioned(built: Built):
    modules = list(sources(built))
    assert len(modules) > 1000
    for module in modules:
        compiled = Path(importlib.util.cache_from_source(str(module)))
        assert compiled.exists(), module
        assert compiled.read_bytes()[:8] == importlib.util.MAGIC_NUMBER + UNCHECKED_HASH, module
    assert len(list(built.folder.rglob("*.pyc"))) == len(modules)
