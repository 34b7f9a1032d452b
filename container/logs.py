"""What libraries log through Python's logging, as lines of our own log."""

from __future__ import annotations

import logging

from gateway import telemetry


class Lines(logging.Handler):
    """An error by its type and place: what a library says of it may quote what must not be read."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is None:
            place = f"{record.filename}:{record.lineno}"
            telemetry.log("library_failed", level=record.levelname, library=record.name, place=place)
        else:
            telemetry.failure("library_failed", error, library=record.name)


def collect() -> None:
    """Have every library's errors in our log from now on."""
    logging.basicConfig(handlers=[Lines()], level=logging.ERROR)
