"""Where mails go in tests: the Resend of `make run`, behind a real socket, and the gateway's settings for it."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from gateway import letters, outbox, posting, settings, unsubscribe
from local.resend import Resend
from tests.harness.gateway import listening

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

API_URL = "https://api.example.com"
READERS = (outbox, posting, unsubscribe, letters.texts)
"""Modules that read settings of what is sent."""


class Mailbox(Resend):
    """What was mailed, and to whom."""

    address = ""

    def believed(self, patch: pytest.MonkeyPatch, **changes: str) -> None:
        """Have the gateway send its mails here, with these changes to its settings."""
        loaded = settings.load({**os.environ, "API_URL": API_URL, **self.settings(self.address), **changes})
        for module in READERS:
            patch.setattr(module, "settings", loaded)

    @property
    def taken(self) -> list[tuple[str, str]]:
        """(address, subject) of each mail, in turn."""
        return [(mail["mail"]["to"][0], mail["mail"]["subject"]) for mail in self.mails]

    @property
    def last(self) -> dict[str, Any]:
        mail: dict[str, Any] = self.mails[-1]["mail"]
        return mail


@pytest.fixture
async def mailbox(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Mailbox]:
    """Mails are sent, to here, as fast as they can be."""
    running = Mailbox(tmp_path / "mailbox")
    monkeypatch.setattr(outbox, "MAILS_S", 0.0)
    async with listening(running.app) as running.address:
        running.believed(monkeypatch)
        yield running
