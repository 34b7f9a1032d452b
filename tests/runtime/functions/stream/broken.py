"""A function whose import fails."""

raise RuntimeError("init went wrong")
