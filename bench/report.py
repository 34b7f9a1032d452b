"""The table: every figure of each target, the ratio to the floor, and the limit that was set for it."""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING

from bench.measure import CHUNKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bench.measure import Figures, Round

DIRECT, FLOOR, PRODUCT = NAMES = ("direct", "floor", "gatewayz")


@dataclass(frozen=True, slots=True)
class Limit:
    """The most that the product may need: so many of the line's unit, or so many times the floor."""

    most: float
    times_floor: bool = False

    def __str__(self) -> str:
        return f"{self.most:g} x floor" if self.times_floor else f"{self.most:g}"


@dataclass(slots=True)
class Line:
    """One line of the table: a value for each target that has one."""

    label: str
    values: dict[str, float] = field(default_factory=dict)
    limit: Limit | None = None
    digits: int = 2
    ratios: list[float] = field(default_factory=list)
    """To the floor, round by round; empty for what is measured once."""

    def ratio(self) -> float | None:
        """How many times the floor the product needs: the median of the rounds."""
        if self.ratios:
            return median(self.ratios)
        floor, product = self.values.get(FLOOR), self.values.get(PRODUCT)
        return product / floor if floor and product else None

    def kept(self) -> str:
        """Whether its limit is kept; nothing without a limit or a figure."""
        figure = self.ratio() if self.limit and self.limit.times_floor else self.values.get(PRODUCT)
        if self.limit is None or figure is None:
            return ""
        return "yes" if figure <= self.limit.most else "NO"


type Value = Callable[[Round, str], float]


def plain(load: str, value: Callable[[Figures], float]) -> Value:
    """A figure as it is."""
    return lambda one, name: value(one[load][name])


def added(load: str, value: Callable[[Figures], float]) -> Value:
    """Milliseconds over direct, within the round; the direct target shows its own."""
    return lambda one, name: (value(one[load][name]) - (name != DIRECT) * value(one[load][DIRECT])) / 1e3


def chunk_cpu(one: Round, name: str) -> float:
    """Microseconds: what a stream costs more than a JSON answer, over its chunks."""
    return (one["sse_16"][name].cpu - one["json_16"][name].cpu) * 1e3 / CHUNKS


GATEWAYS_ONLY = (FLOOR, PRODUCT)
MEASURED: tuple[tuple[str, Value, tuple[str, ...], Limit | None], ...] = (
    (
        "CPU per JSON completion, 1 at a time, ms",
        plain("json_1", lambda f: f.cpu),
        GATEWAYS_ONLY,
        Limit(1.5, times_floor=True),
    ),
    (
        "CPU per JSON completion, 16 at a time, ms",
        plain("json_16", lambda f: f.cpu),
        GATEWAYS_ONLY,
        Limit(1.5, times_floor=True),
    ),
    ("CPU per streamed chunk, us", chunk_cpu, GATEWAYS_ONLY, Limit(100)),
    ("database CPU per JSON completion, ms", plain("json_16", lambda f: f.database_cpu), GATEWAYS_ONLY, None),
    (
        "completions per second and core",
        plain("json_16", lambda f: 1e3 / f.cpu if f.cpu > 0 else 0.0),
        GATEWAYS_ONLY,
        None,
    ),
    ("added latency p50, 1 at a time, ms", added("json_1", lambda f: f.latency_p50), NAMES, Limit(3)),
    ("added latency p99, 1 at a time, ms", added("json_1", lambda f: f.latency_p99), NAMES, None),
    ("added latency p50, 16 at a time, ms", added("json_16", lambda f: f.latency_p50), NAMES, None),
    ("added latency p99, 16 at a time, ms", added("json_16", lambda f: f.latency_p99), NAMES, None),
    ("added time to first token p50, ms", added("sse_1", lambda f: f.first_p50), NAMES, Limit(3)),
    ("chunk lateness p50, 1 stream, us", plain("sse_1", lambda f: f.late_p50), NAMES, None),
    ("chunk lateness p99, 16 streams, us", plain("sse_16", lambda f: f.late_p99), NAMES, None),
)


def lines(rounds: Sequence[Round]) -> list[Line]:
    """The measured figures: medians over the rounds; ratios are taken within a round, then their median."""
    present = rounds[0]["json_1"]
    found = []
    for label, value, names, limit in MEASURED:
        line = Line(label, limit=limit, digits=0 if label.endswith((", us", "core")) else 2)
        line.values = {name: median(value(one, name) for one in rounds) for name in names if name in present}
        if PRODUCT in present:
            line.ratios = [value(one, PRODUCT) / value(one, FLOOR) for one in rounds if value(one, FLOOR) > 0]
        found.append(line)
    return found


def errors(rounds: Sequence[Round]) -> list[str]:
    """Every load that did not go well, in words."""
    return [
        f"round {number}, {load}, {name}: {count} x {error}"
        for number, one in enumerate(rounds, 1)
        for load, targets in one.items()
        for name, figures in targets.items()
        for error, count in figures.errors.items()
    ]


def cells(line: Line) -> list[str]:
    """A line as the texts of its columns."""
    values = [f"{line.values[name]:.{line.digits}f}" if name in line.values else "-" for name in NAMES]
    ratio = line.ratio()
    times = "-" if ratio is None else f"{ratio:.2f}"
    return [line.label, *values, times, str(line.limit or ""), line.kept()]


def table(found: Sequence[Line]) -> str:
    """The lines in columns, as Markdown."""
    rows = [["", *NAMES, "x floor", "limit", "kept"], *(cells(line) for line in found)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    shown = [" | ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    rule = " | ".join(["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    return "\n".join(f"| {text} |" for text in (shown[0], rule, *shown[1:]))
