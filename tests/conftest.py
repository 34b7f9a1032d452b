"""What every test may ask for."""

from __future__ import annotations

import gc
import os
import sys
from random import Random  # noqa: TID251 - an order that a seed brings back is what it is for
from typing import Any

import pytest

# gateway.settings reads the environment once, at import
os.environ |= {
    "STAGE": "dev",
    "KEY_PEPPERS": "v1:a-pepper-for-tests-only",
    "SEALING_KEYS": "c2VhbGluZy1rZXktZm9yLXRlc3RzLW9ubHktMDAwMDE=",
    "STRIPE_SECRET_KEY": "sk_test_only",
    "STRIPE_WEBHOOK_SECRET": "whsec_only_for_tests",
    "STRIPE_BASE_URL": "http://127.0.0.1:1",
    "DATABASE_URL": "postgresql://gateway@127.0.0.1:1/gateway",
}

pytest_plugins = [
    "tests.harness.postgres",
    "tests.harness.project",
    "tests.harness.builders",
    "tests.harness.cloud",
    "tests.harness.doors",
    "tests.harness.gateway",
    "tests.harness.issuer",
    "tests.harness.stripe",
    "tests.harness.mailbox",
    "tests.harness.upstream",
    "tests.harness.built",
    "tests.harness.events",
    "tests.harness.progress",
]

type Chance = Random


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> Chance:
    """Chance that `--randomly-seed` of the same run brings back."""
    return Random(request.config.getoption("randomly_seed"))  # noqa: S311 - an order, not a secret


WORKERS_A_CORE = 2
"""A worker waits at times, for its Postgres or a process that starts: on two cores four need 12 minutes, three 13."""
STARTS_PROCESSES = {"server", "built", "bare_python", "image", "aws", "strict_server", "mortal_server", "docker"}
"""Fixtures whose tests have the mark `process` by themselves."""
running: list[pytest.Item] = []


def pytest_collection_finish() -> None:
    """What is collected stays: the collector need not look at it again and again (a tenth of all time)."""
    gc.collect()
    gc.freeze()


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """`logical` is for tests that wait for nothing."""
    each = 1 if config.getoption("numprocesses") == "logical" else WORKERS_A_CORE
    return each * (os.process_cpu_count() or 1)


@pytest.hookimpl(wrapper=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Any:
    """Mark what starts processes before `-m` chooses; then let slow tests begin early, each on another worker."""
    for item in items:
        if STARTS_PROCESSES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker("process")
    result = yield
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    for at, item in enumerate(slow):
        others.insert(at * len(items) // len(slow), item)
    items[:] = others
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Any:
    running.append(item)
    try:
        return (yield)
    finally:
        running.pop()


def _watch(event: str, _: tuple[Any, ...]) -> None:
    """Let no test start a process without the mark, or `make quick` would not be quick."""
    if event == "subprocess.Popen" and running and not running[-1].get_closest_marker("process"):
        raise RuntimeError(f"{running[-1].nodeid} starts a process: give it the mark process")


sys.addaudithook(_watch)
