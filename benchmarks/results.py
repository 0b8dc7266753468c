"""What was measured, the bars it is held to, and which of them are met."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from measure import Figures
from peers import Installed, Peer

MODELWAY = "modelway"
STARTED, CHECK, COMPILE, CREATE, WRITE = "--version", "check", "compile", "create", "write"
CASES = {
    STARTED: "start-up (--version)",
    CHECK: "check, up to date",
    COMPILE: "compile, up to date",
    CREATE: "compile, creating all files",
    WRITE: "the floor: the bytes written",
}


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one program on one size. ``files``: how many it creates."""

    subject: str
    case: str
    size: int
    figures: Figures
    files: int = 0

    @property
    def ms_per_file(self) -> float | None:
        """Wall time: creating files is mostly waiting for the file system."""
        return 1000 * self.figures.wall_s / self.files if self.files else None


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that was measured; filled while measuring."""

    rows: list[Row] = field(default_factory=list)
    workload: dict[str, Any] = field(default_factory=dict)
    installed: list[Installed] = field(default_factory=list)
    missing: list[Peer] = field(default_factory=list)

    def figures(self, case: str, size: int) -> Figures | None:
        """The figures of one case of modelway."""
        wanted = (MODELWAY, case, size)
        found = (row.figures for row in self.rows if (row.subject, row.case, row.size) == wanted)
        return next(found, None)

    def peers(self, size: int) -> list[Row]:
        """The rows of the peers on one size."""
        names = {one.peer.name for one in self.installed}
        return [row for row in self.rows if row.subject in names and row.size == size]


@dataclass(frozen=True, slots=True)
class Bar:
    """What a figure of modelway may be at most; with ``base``, how often that of the size ``base``."""

    what: str
    case: str
    size: int
    figure: str
    limit: float
    unit: str
    aim: float | None = None
    base: int | None = None

    def value(self, results: Results) -> float | None:
        """The measured value, or None if it was not measured."""
        found = results.figures(self.case, self.size)
        base = None if self.base is None else results.figures(self.case, self.base)
        if found is None or (self.base is not None and base is None):
            return None
        value = float(getattr(found, self.figure))
        return value if base is None else value / float(getattr(base, self.figure))


BARS = (
    Bar("start-up, CPU", STARTED, 0, "cpu_s", 0.10, "s"),
    Bar("check of 100, CPU", CHECK, 100, "cpu_s", 0.30, "s"),
    Bar("check of 1000, CPU", CHECK, 1000, "cpu_s", 1.5, "s", aim=1.0),
    Bar("check of 1000, peak memory", CHECK, 1000, "peak_mb", 120, "MB"),
    Bar("check, CPU from 1000 to 10000", CHECK, 10000, "cpu_s", 11, "-fold", base=1000),
)


COMPARED = 1000  # models, of which a check is to take less CPU than any peer


@dataclass(frozen=True, slots=True)
class Verdict:
    """A bar and what was measured. ``margin``: the share of the limit that is left, negative if missed."""

    what: str
    limit: float
    value: float
    unit: str
    aim: float | None = None

    @property
    def met(self) -> bool:
        return self.value <= self.limit

    @property
    def margin(self) -> float:
        return 1 - self.value / self.limit


def verdicts(results: Results) -> Iterator[Verdict]:
    """Each bar that was measured, and each peer that modelway is to be faster than."""
    for bar in BARS:
        if (value := bar.value(results)) is not None:
            yield Verdict(bar.what, bar.limit, value, bar.unit, bar.aim)
    if ours := results.figures(CHECK, COMPARED):
        for peer in results.peers(COMPARED):
            yield Verdict(f"check of {COMPARED}, against {peer.subject}", peer.figures.cpu_s, ours.cpu_s, "s")
