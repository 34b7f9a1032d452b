"""Vercel's way in: it runs the `app` of a file in this folder, with nothing but this folder's parent to import from."""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / folder) for folder in ("", "shared", "functions")]

from container.app import app  # noqa: E402 - found by the line above

__all__ = ["app"]
