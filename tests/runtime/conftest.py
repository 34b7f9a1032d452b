from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
import pytest_asyncio

from local.aws_lambda import LocalLambda

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

TEMPLATE = Path(__file__).parent / "template.yaml"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def aws(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[LocalLambda]:
    """The test template's functions, running; `aws.address` is where."""
    aws = LocalLambda(TEMPLATE, {"EXTRA": "given"}, tmp_path_factory.mktemp("queues"))
    await aws.start()
    yield aws
    await aws.stop()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(aws: LocalLambda) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(base_url=aws.address, timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def gate(tmp_path: Path) -> Path:
    """A file that a function waits for."""
    return tmp_path / "gate"


@pytest.fixture
def done(tmp_path: Path) -> Path:
    """A file that a function makes when it has come that far."""
    return tmp_path / "done"
