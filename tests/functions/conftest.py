"""What stores or settles is tested by both ways to the database: what one of them cannot encode was never charged."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

BY_BOTH = {"chat", "history", "idempotency", "kept", "media", "messages", "quote", "responses"}


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    name = metafunc.module.__name__.rpartition("test_")[2]
    if name in BY_BOTH and "door_url" in metafunc.fixturenames:
        metafunc.parametrize("door_url", ["postgres", "supabase"], indirect=True)
