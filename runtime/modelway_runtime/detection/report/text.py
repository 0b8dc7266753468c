"""A verdict in a terminal, within 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from modelway_runtime.detection import sanitise
from modelway_runtime.detection.judgement import Plot
from modelway_runtime.detection.report import words
from modelway_runtime.detection.report.sparkline import shortened, sparkline
from modelway_runtime.detection.verdict import MetricVerdict, Rollout, State, Verdict

WIDTH = 80
_COLUMNS = (24, 24)
_LONGEST_NAME = 63
_COLOURS: dict[State, str] = {
    "regressed": "31",
    "improved": "32",
    "unchanged": "2",
    "pending": "33",
    "inconclusive": "33",
}
_MARKS: dict[State, str] = {
    "regressed": "✗",
    "improved": "✓",
    "unchanged": "=",
    "pending": "…",
    "inconclusive": "?",
}


def report(verdict: Verdict, plots: Sequence[Plot], colour: bool) -> str:
    """The verdict, what changed or cannot be said, and where it comes from; ends in a newline."""
    metrics = words.ranked(verdict)
    told = [one for one in metrics if one.state != "unchanged"]
    shown = told or list(metrics[:1])
    state = words.TITLES[verdict.state].upper()
    lines = _wrap(f"{state}: {words.headline(verdict, _name)}")
    lines[0] = _paint(lines[0][: len(state)], verdict.state, colour) + lines[0][len(state) :]
    lines += _wrap(words.outlook(verdict))
    if verdict.state in ("unchanged", "improved"):
        lines += _wrap(words.seen(verdict, _name))
    lines.append("")
    if shown:
        before, after = words.sides(verdict.comparison)
        lines.append(_columns("  metric", f"{before} → {after}", f"effect ({words.confidence(shown)})"))
    drawn = {plot.name: plot for plot in plots}
    for metric in shown:
        lines += _metric(metric, drawn.get(metric.name), colour)
    unchanged = len(metrics) - len(shown)
    if unchanged:
        lines.append(f"  {unchanged} {'more ' if not told else ''}unchanged")
    return "\n".join([line.rstrip() for line in [*lines, "", *_origin(verdict)]]) + "\n"


def _metric(metric: MetricVerdict, plot: Plot | None, colour: bool) -> list[str]:
    mark = _paint(_MARKS[metric.state], metric.state, colour)
    values = " → ".join(words.sided(metric))
    size, interval = words.effect(metric), words.interval(metric)
    name = sanitise.ascii_name(metric.name, _COLUMNS[0] - 4)
    lines = [f"{mark} {_columns(name, values, f'{size} ({interval})' if interval else size, 2)}"]
    said: list[str] = [] if metric.test == "level" else [metric.test]
    said += [words.reason(metric)] if words.reason(metric) else []
    said += [] if metric.p is None else [f"p {words.probability(metric.p)}"]
    said += [] if metric.smallest_effect is None else [f"visible from {words.smallest(metric)}"]
    line = shortened(metric.sparkline, 60) or (sparkline(plot.values) if plot else "")
    detail = ", ".join(said)
    parts = [part for part in (line if line.strip() else "", detail) if part]
    joined = "   ".join(parts)
    return lines + [f"    {part}" for part in ([joined] if len(joined) <= WIDTH - 4 else parts)]


def _columns(name: str, values: str, effect: str, indent: int = 0) -> str:
    """A cell that is wider than its column pushes the next ones on."""
    first, second = _COLUMNS
    return f"{name:<{first - indent - 2}}  {values:<{second - 2}}  {effect}"


def _origin(verdict: Verdict) -> list[str]:
    lines = []
    if verdict.rollout:
        lines.append(("rollout", _rollout(verdict.rollout)))
    if verdict.commit:
        pull = f", #{verdict.pull_request.number}" if verdict.pull_request else ""
        lines.append(("commit", sanitise.ascii_name(verdict.commit.sha, 64)[:12] + pull))
    lines += [("also", _rollout(one) + words.blame(verdict)) for one in verdict.other_rollouts[:5]]
    if len(verdict.other_rollouts) > 5:
        lines.append(("also", f"{len(verdict.other_rollouts) - 5} more rollouts in the windows"))
    lines.append(("gate", f"{verdict.outcome}: {words.gate(verdict)}"))
    lines.append(("series", sanitise.ascii_name(verdict.series_digest, 71)))
    lines.append(("judged", words.time(verdict.judged_at)))
    return [
        line
        for label, text in lines
        for line in textwrap.wrap(text, WIDTH, initial_indent=f"{label:<9}", subsequent_indent=" " * 9)
    ]


def _rollout(rollout: Rollout) -> str:
    return f"{_name(rollout.model)} {_name(rollout.version)} at {words.time(rollout.started_at)}"


def _name(text: str) -> str:
    return sanitise.ascii_name(text, _LONGEST_NAME)


def _wrap(text: str, width: int = WIDTH) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False)


def _paint(text: str, state: State, colour: bool) -> str:
    return f"\x1b[1;{_COLOURS[state]}m{text}\x1b[0m" if colour else text
