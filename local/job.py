"""`make job NAME=…`: run one scheduled job now, on the database of the gateway that is running here."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from local.home import Home


def main(name: str) -> None:
    """Run it and print what it says. Exits with a list of the jobs for a name that is none."""
    home = Home(Path(".gateway"))
    os.environ |= home.settings() | {"DATABASE_URL": os.environ.get("DATABASE_URL") or home.env()["DATABASE_URL"]}
    sys.path.insert(0, "functions")
    from jobs.handler import JOBS, handler  # noqa: PLC0415 - it reads the settings, which had to be there first

    if name not in JOBS:
        sys.exit("NAME is one of: " + " ".join(sorted(JOBS)))
    print(json.dumps(handler({"job": name}, None)))


if __name__ == "__main__":
    main(sys.argv[1])
