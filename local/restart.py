"""`make restart STAGE=production`: every function reads its secrets anew, for after one was changed.

An environment reads them once. Requests that are under way end as they would have; nothing is refused.
"""

from __future__ import annotations

import sys

from local.stack import GROUPS, NoStack, of_stage


def main(stage: str) -> int:
    """Restart the functions of a stage, one after the other; the exit status."""
    try:
        stack = of_stage(stage)
    except NoStack as reason:
        print(reason)
        return 1
    print(f"Stack {stack.name}:")
    for group in GROUPS:
        stack.restart(group)
        print(f"  {group} starts afresh")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
