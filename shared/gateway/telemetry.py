"""Logs: one JSON object a line on standard output, where Lambda and containers collect them.

Names of events and numbers, never prompts, answers, keys or a provider's words: anybody may read what is passed here.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from typing import Any

import msgspec


def log(event: str, *, level: str = "INFO", **fields: Any) -> None:
    """Write one line."""
    line = {
        "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "level": level,
        "event": event,
        **fields,
    }
    sys.stdout.write(msgspec.json.encode(line).decode() + "\n")
    sys.stdout.flush()


def failure(event: str, error: BaseException, **fields: Any) -> None:
    """Log an unexpected error by its type and place; its text may hold what must not be read and stays out."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = f"{trace.tb_frame.f_code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}" if trace else None
    log(event, level="ERROR", error=type(error).__name__, place=place, **fields)
