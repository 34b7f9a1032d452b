"""A Docker engine with the image that SAM asks for, and SAM local on a database of the test's own."""

from __future__ import annotations

import os
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from tests.harness.rie import ARCHITECTURE
from tests.sam_local import door, engine, image, sam

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from tests.harness.built import Built
    from tests.harness.postgres import Database

SECRETS = ("KEY_PEPPERS", "SEALING_KEYS", "STRIPE_SECRET_KEY", "STRIPE_WEBHOOK_SECRET")


@pytest.fixture(scope="session")
def docker(built: Built) -> Iterator[engine.Engine]:
    """An engine that has the image; one that we made goes with the test, and SAM's own images stay for the next."""
    try:
        # the path of a socket is short
        with TemporaryDirectory(prefix="docker") as folder, engine.running(Path(folder) / "engine") as found:
            is_ours = image.provide(found, ARCHITECTURE, built.folder / "DependenciesLayer")
            print(f"\n{image.name(ARCHITECTURE)} is {'assembled here' if is_ours else 'at hand'}.")
            yield found
            if is_ours:
                found.docker("image", "rm", "--force", image.name(ARCHITECTURE))
    except engine.NoEngine as error:
        pytest.exit(str(error), 1)


@pytest.fixture
async def local(docker: engine.Engine, built: Built, database: Database) -> AsyncIterator[sam.Sam]:
    """SAM local, whose functions use the test's database."""
    service = urlsplit(database.service)
    assert service.port
    async with door.opened(docker, service.port) as (host, port):
        url = service._replace(netloc=f"{service.username}@{host}:{port}").geturl()
        secrets = {name: os.environ[name] for name in SECRETS}
        yield sam.configured(docker, built, {"STAGE": "dev", "DATABASE_URL": url, **secrets})
