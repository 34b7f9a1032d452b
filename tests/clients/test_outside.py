"""Clients with environments of their own, on a gateway as `make run` starts it. Run by `make clients`."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import pytest

from tests.local.test_run import ROOT, running, violations

OUTSIDE = Path(__file__).parent / "outside"
TOURS = {
    "javascript": ["node", "tour.mjs"],
    "litellm": [str(ROOT / ".venv/litellm/bin/python"), "litellm_tour.py"],
}


@pytest.mark.clients
@pytest.mark.parametrize("name", TOURS)
async def test_a_client_that_does_not_know_us(tmp_path: Path, name: str):
    with running(tmp_path / "home") as env:
        tour = await asyncio.to_thread(
            subprocess.run, TOURS[name], cwd=OUTSIDE, env={**os.environ, **env}, capture_output=True, text=True,
            check=False,
        )  # fmt: skip
        assert tour.returncode == 0, tour.stdout + tour.stderr
        assert "ok" in tour.stdout
        assert await violations(env) == 0
