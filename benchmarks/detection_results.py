"""Counts by cell, the bars, and the rows of the table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias


class Cell(NamedTuple):
    """What was tried. ``minutes`` is the time after the release or 0; ``size`` the traffic."""

    source: str
    comparison: str
    setting: str
    event: str
    minutes: int
    metric: str
    size: str


Counts: TypeAlias = dict[Cell, tuple[int, int]]
"""Flagged, and of how many. For watching: alarms, and of how many days."""


@dataclass(frozen=True, slots=True)
class Bar:
    """What a share is held to; ``events`` by the source they come from. A ``false`` one must be at most
    ``bar``, else at least."""

    what: str
    comparison: str
    setting: str
    minutes: tuple[int, ...]
    events: Mapping[str, tuple[str, ...]]
    bar: float | None
    false: bool = False
    metrics: tuple[str, ...] | None = None


QUIET_OF = {
    "detbench": ("spikes", "missing", "reset", "surge"),
    "own": ("restart", "missing", "campaign", "recovery"),
}
LIVE_OF = {"detbench": ("spikes", "surge"), "own": ("restart", "missing", "campaign")}
LATENCY = ("p50", "p99", "gpu", "memory", "score")


def _both(event: str) -> dict[str, tuple[str, ...]]:
    return {"detbench": (event,), "own": (event,)}


def _release(setting: str, false: tuple[float, float], power: tuple[float, float, float]) -> Iterator[Bar]:
    for minutes in (30, 60):
        at = ((minutes,), _both("none"), false[0])
        yield Bar(f"{setting}, T={minutes}: nothing happened", "release", setting, *at, false=True)
        quiet = Bar(
            f"{setting}, T={minutes}: other events", "release", setting, (minutes,), QUIET_OF, false[1], True
        )
        yield quiet
    steps = ("step+20", "step+10")
    for event, bar in zip(steps, power[:2], strict=True):
        yield Bar(f"{setting}, T=30: {event[4:]} %", "release", setting, (30,), _both(event), bar)
    doubled = _both("step+100")
    yield Bar(
        f"{setting}, T=30: errors +100 %", "release", setting, (30,), doubled, power[2], metrics=("err",)
    )


def bars() -> Iterator[Bar]:
    """The table of what the detector must reach, in its order."""
    yield from _release("comment", (0.015, 0.025), (0.95, 0.50, 0.70))
    yield from _release("gate", (0.005, 0.005), (0.95, 0.45, 0.60))
    noise = {"detbench": ("var3",), "own": ()}
    yield Bar("comment, T=60: noise x3", "release", "comment", (60,), noise, 0.95)
    yield Bar("canary, T=30: nothing happened", "canary", "gate", (30,), _both("none"), 0.01, True)
    yield Bar("canary, T=30: other events", "canary", "gate", (30,), LIVE_OF, 0.01, True)
    for event, bar in (("step+10", 0.80), ("step+20", 0.98)):
        metrics = LATENCY
        yield Bar(f"canary, T=30: {event[4:]} %", "canary", "gate", (30,), _both(event), bar, metrics=metrics)
    doubled = _both("step+100")
    yield Bar("canary, T=30: errors +100 %", "canary", "gate", (30,), doubled, 0.60, metrics=("err",))
    yield Bar("watch: alarms a series and day", "watch", "comment", (0,), _both("none"), 0.1, True)
    for minutes, bar in ((60, 0.80), (180, 0.95)):
        what = f"watch: +20 % within {minutes} min"
        yield Bar(what, "watch", "comment", (minutes,), _both("step+20"), bar, metrics=LATENCY)


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table. ``bound``: the 95 % upper bound of a false rate, the lower one of a power."""

    what: str
    source: str
    value: float
    bar: float | None
    false: bool
    hits: int | None = None
    of: int | None = None
    bound: float | None = None
    by_size: str = ""

    @property
    def met(self) -> bool | None:
        """None where there is no bar."""
        if self.bar is None:
            return None
        return self.value <= self.bar if self.false else self.value >= self.bar


@dataclass(slots=True)
class Results:
    """Filled while measuring."""

    counts: Counts = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    def add(self, counts: Counts) -> None:
        for cell, (hits, of) in counts.items():
            before = self.counts.get(cell, (0, 0))
            self.counts[cell] = (before[0] + hits, before[1] + of)

    def table(self) -> list[Row]:
        """Shares of all bars for which there are trials, then the rest."""
        return [*self._shares(), *self.rows]

    def _shares(self) -> Iterator[Row]:
        for source in ("detbench", "own"):
            for bar in bars():
                row = self._row(source, bar)
                if row:
                    yield row
            yield from self._whole(source)

    def _row(self, source: str, bar: Bar) -> Row | None:
        def wanted(cell: Cell, size: str | None = None) -> bool:
            if size is not None and cell.size != size:
                return False
            plain = " " not in cell.metric and cell.metric != "verdict"
            return (
                (cell.source, cell.comparison, cell.setting) == (source, bar.comparison, bar.setting)
                and cell.minutes in bar.minutes
                and cell.event in bar.events[source]
                and (plain if bar.metrics is None else cell.metric in bar.metrics)
            )

        hits, of = self.sum(wanted)
        if not of:
            return None
        alarms = bar.comparison == "watch" and bar.false
        bound = days_bound(hits, of) if alarms else share_bound(hits, of, bar.false)
        each = []
        for size in dict.fromkeys(cell.size for cell in self.counts if wanted(cell) and cell.size):
            part, whole = self.sum(lambda cell, size=size: wanted(cell, size))  # type: ignore[misc]
            each.append(f"{size} {part / whole:.2f}")
        by_size = ", ".join(each) if not bar.false else ""
        return Row(bar.what, source, hits / of, bar.bar, bar.false, hits, of, bound, by_size)

    def _whole(self, source: str) -> Iterator[Row]:
        """Verdicts over all metrics at once: what a person sees. No bar was set for them."""
        for setting, comparison in (("comment", "release"), ("gate", "release"), ("gate", "canary")):
            for event in ("none", *QUIET_OF[source]):
                for minutes in (30, 60):
                    key = (source, comparison, setting, event, minutes, "verdict")
                    hits, of = self.sum(lambda cell, key=key: cell[:6] == key)  # type: ignore[misc]
                    if of:
                        what = f"whole verdict, {comparison}, {setting}, T={minutes}: {event}"
                        yield Row(what, source, hits / of, None, True, hits, of, share_bound(hits, of, True))

    def sum(self, wanted: Callable[[Cell], bool]) -> tuple[int, int]:
        found = [counts for cell, counts in self.counts.items() if wanted(cell)]
        return sum(hits for hits, _ in found), sum(of for _, of in found)

    def where(self) -> Iterator[tuple[str, int, int]]:
        """False flags of releases and canaries by event and metric, the worst first."""
        grouped: dict[str, list[int]] = defaultdict(lambda: [0, 0])
        for cell, (hits, of) in self.counts.items():
            quiet = cell.event in ("none", *QUIET_OF[cell.source])
            if quiet and cell.metric != "verdict" and " " not in cell.setting and " " not in cell.metric:
                at = f"T={cell.minutes}" if cell.minutes else "a day"
                of_traffic = f" {cell.size}" if cell.size else ""
                what = f"{cell.source} {cell.comparison} {cell.setting} {at}"
                name = f"{what} {cell.event} {cell.metric}{of_traffic}"
                grouped[name][0] += hits
                grouped[name][1] += of
        found = [(name, hits, of) for name, (hits, of) in grouped.items() if hits]
        yield from sorted(found, key=lambda one: -one[1] / one[2])


def share_bound(hits: int, of: int, upper: bool) -> float:
    """One-sided 95 % bound of a share: exact (Clopper and Pearson, Biometrika 26, 1934)."""
    from scipy import stats

    if upper:
        return 1.0 if hits == of else float(stats.beta.ppf(0.95, hits + 1, of - hits))
    return 0.0 if hits == 0 else float(stats.beta.ppf(0.05, hits, of - hits + 1))


def days_bound(alarms: int, days: int) -> float:
    """One-sided 95 % upper bound of a rate a day: exact for Poisson counts (Garwood, Biometrika 28, 1936)."""
    from scipy import stats

    return float(stats.chi2.ppf(0.95, 2 * (alarms + 1))) / 2 / days


def text(results: Results, head: dict[str, Any]) -> Iterator[str]:
    """The table as lines."""
    where = head["machine"]
    yield f"modelway {head['modelway']}, Python {where['python']}, {where['date']}"
    yield f"{where['processor']}, {where['cores']} cores, {where['system']}, load {where['load']} before"
    yield f"{head['trials']} trials a cell, seeds from {head['seed']}; bound: one-sided, 95 %"
    yield ""
    yield f"{'':56}{'bar':>9}{'ours':>9}{'flagged':>10}{'trials':>8}{'bound':>9}"
    source = None
    for row in results.table():
        if row.source != source:
            source = row.source
            yield f"- {source}"
        yield _line(row)
    flagged = list(results.where())
    if flagged:
        yield ""
        yield "where something was flagged that is no change (20 worst)"
        yield from (f"  {name:70}{hits:5} of {of}" for name, hits, of in flagged[:20])
    for skipped in results.skipped:
        yield f"skipped: {skipped}"


def _line(row: Row) -> str:
    side = "<=" if row.false else ">="
    bar = "" if row.bar is None else f"{side} {row.bar:g}"
    counted = "" if row.of is None else f"{row.hits:>10}{row.of:>8}"
    bound = "" if row.bound is None else f"{row.bound:9.4f}"
    met = {True: "", False: "  MISSED", None: ""}[row.met]
    by_size = f"  ({row.by_size})" if row.by_size else ""
    return f"{row.what:56}{bar:>9}{row.value:9.4f}{counted:18}{bound:>9}{met}{by_size}".rstrip()


def data(results: Results, head: dict[str, Any]) -> dict[str, Any]:
    """The table and all counts as plain values."""
    rows: Iterable[Row] = results.table()
    return {
        **head,
        "rows": [
            {"what": row.what, "source": row.source, "value": row.value, "bar": row.bar, "met": row.met,
             "flagged": row.hits, "of": row.of, "bound": row.bound, "by_size": row.by_size}
            for row in rows
        ],
        "counts": [
            {**cell._asdict(), "flagged": hits, "of": of} for cell, (hits, of) in results.counts.items()
        ],
        "skipped": results.skipped,
    }  # fmt: skip
