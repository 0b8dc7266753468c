"""What was measured of the servers, as a table and as JSON."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from load import Outcome
from serving_reload import Floor, Reload

OURS = "modelway"


@dataclass(frozen=True, slots=True)
class Round:
    """One run of h2load. ``cpu_us``: of the server's process tree, for each answer with 200."""

    rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    failed: int

    @classmethod
    def of(cls, outcome: Outcome, cpu_s: float) -> Round:
        good = outcome.answers.get(200, 0)
        cpu_us = cpu_s / good * 1e6 if good else float("nan")
        return cls(outcome.rps, outcome.p50_ms, outcome.p99_ms, cpu_us, outcome.failed)


@dataclass(frozen=True, slots=True, order=True)
class Cell:
    """What was measured: a model, a form of the protocol, how many connections with one request each."""

    model: str
    form: str
    connections: int


@dataclass(frozen=True, slots=True)
class Row:
    """Medians over the rounds. The ratios are ours by the peer's of the same round, so drift cancels out."""

    server: str
    rounds: int
    rps: float
    p50_ms: float
    p99_ms: float
    cpu_us: float
    failed: int
    rps_ratio: float | None
    cpu_ratio: float | None


@dataclass(frozen=True, slots=True)
class Results:
    """Everything that was measured; filled while measuring. ``skipped`` says why a server is missing."""

    rounds: dict[Cell, dict[str, list[Round]]] = field(default_factory=lambda: defaultdict(dict))
    versions: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    floors: list[Floor] = field(default_factory=list)
    reloads: list[Reload] = field(default_factory=list)
    _against: dict[tuple[Cell, str], list[Round]] = field(default_factory=dict)

    def add(self, cell: Cell, ours: list[Round], peer: str | None, theirs: list[Round]) -> None:
        """The rounds of a cell, in pairs; without a peer only ours."""
        self.rounds[cell].setdefault(OURS, []).extend(ours)
        if peer is not None:
            self.rounds[cell][peer] = theirs
            self._against[cell, peer] = ours

    def rows(self, cell: Cell) -> list[Row]:
        """The servers of a cell, the fastest first."""
        rows = [self._row(cell, server, rounds) for server, rounds in self.rounds[cell].items()]
        return sorted(rows, key=lambda row: -row.rps)

    def _row(self, cell: Cell, server: str, rounds: list[Round]) -> Row:
        ours = self._against.get((cell, server))
        return Row(
            server=server,
            rounds=len(rounds),
            rps=statistics.median(one.rps for one in rounds),
            p50_ms=statistics.median(one.p50_ms for one in rounds),
            p99_ms=statistics.median(one.p99_ms for one in rounds),
            cpu_us=statistics.median(one.cpu_us for one in rounds),
            failed=sum(one.failed for one in rounds),
            rps_ratio=_ratio([(a.rps, b.rps) for a, b in zip(ours, rounds, strict=True)]) if ours else None,
            cpu_ratio=_ratio([(a.cpu_us, b.cpu_us) for a, b in zip(ours, rounds, strict=True)])
            if ours
            else None,
        )


def _ratio(pairs: list[tuple[float, float]]) -> float | None:
    known = [ours / theirs for ours, theirs in pairs if theirs]
    return statistics.median(known) if known else None


def data(results: Results, head: dict[str, Any]) -> dict[str, Any]:
    """The results as plain values; ``head`` comes first."""
    cells = [asdict(cell) | asdict(row) for cell in sorted(results.rounds) for row in results.rows(cell)]
    return {
        **head,
        "servers": results.versions,
        "skipped": results.skipped,
        "cells": cells,
        "floor": [asdict(floor) for floor in results.floors],
        "reload": [asdict(reload) for reload in results.reloads],
    }


def text(results: Results, head: dict[str, Any]) -> Iterator[str]:
    """The results as lines."""
    where = head["machine"]
    yield f"{where['processor']}, {where['cores']} cores, {where['system']}, load {where['load']} before"
    runs = f"medians of {head['rounds']} rounds of {head['seconds']:g} s"
    yield f"Python {where['python']}, {where['date']}; {runs}"
    if results.rounds:
        yield ""
        yield from _table(results)
    if results.floors:
        yield ""
        columns = f"{'rows':>6}{'calls/s':>10}{'rows/s':>10}{'p50 ms':>9}{'p99 ms':>9}"
        yield f"{'onnxruntime alone, one thread':32}{columns}"
        for one in results.floors:
            took = f"{one.p50_ms:9.3f}{one.p99_ms:9.3f}"
            yield f"{one.model:32}{one.rows:6}{one.calls_per_s:10.0f}{one.rows_per_s:10.0f}{took}"
    for reload in results.reloads:
        gaps = f"{reload.gap_ms:.1f} ms ({reload.control_gap_ms:.1f} ms without a reload)"
        memory = (
            f"{reload.before_mb:.0f} MB before and {reload.after_mb:.0f} MB after {reload.reloads} reloads"
        )
        yield ""
        yield f"Reload of {reload.megabytes:.0f} MB, {reload.load_s:.2f} s"
        yield f"the slowest answer to another request meanwhile: {gaps}"
        yield f"resident memory: {memory}"
    if results.skipped:
        yield ""
        yield from (f"{name}: not measured, {why}" for name, why in results.skipped.items())


def _table(results: Results) -> Iterator[str]:
    yield f"{'':45}{'requests/s':>11}{'p50 ms':>9}{'p99 ms':>9}{'CPU µs':>8}{'ours : its':>12}{'CPU':>7}"
    for cell in sorted(results.rounds):
        for row in results.rows(cell):
            what = f"{cell.model:5}{cell.form:8}{cell.connections:>4}  "
            name = f"{row.server} {results.versions.get(row.server, '')}".strip()
            figures = f"{row.rps:11.0f}{row.p50_ms:9.2f}{row.p99_ms:9.2f}{row.cpu_us:8.0f}"
            ratios = "".join(
                " " * width if ratio is None else f"{ratio:{width}.2f}"
                for ratio, width in ((row.rps_ratio, 12), (row.cpu_ratio, 7))
            )
            failed = f"  {row.failed} failed" if row.failed else ""
            yield f"{what}{name:26}{figures}{ratios}{failed}".rstrip()
