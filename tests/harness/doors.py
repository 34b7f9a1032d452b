"""The other way to a test's database: the API that Supabase has for it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gateway.database.supabase import Supabase
from local import postgrest, schema
from tests.harness.web import served

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.harness.postgres import Database

SECRET = "a secret that signs the tokens of Supabase's API"


@pytest.fixture
def door_url(request: pytest.FixtureRequest, database: Database) -> Iterator[str | None]:
    """Where Supabase's API of the database is, for a test that goes by it; None for one that goes to Postgres."""
    if getattr(request, "param", "postgres") == "postgres":
        yield None
    else:
        with served(postgrest.app(database.admin, SECRET)) as url:
            yield url


def client(url: str, group: str) -> Supabase:
    """A function's way to its database by this API, as the role of its group."""
    return Supabase(url, postgrest.service_key(SECRET, schema.role(group)))
