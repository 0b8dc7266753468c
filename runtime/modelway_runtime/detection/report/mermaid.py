"""One metric as a chart that GitHub draws: Mermaid's ``xychart-beta``."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.judgement import Plot
from modelway_runtime.detection.report import words
from modelway_runtime.detection.report.sparkline import drawable
from modelway_runtime.detection.verdict import MetricVerdict, Verdict

MOST_POINTS = 60
# Told apart on white and on black, and by those who do not see red and green apart.
_MEASURED, _LEVEL, _EXPECTED = ("#0969da", "blue"), ("#d1600a", "orange"), ("#8c959f", "grey")


@dataclass(frozen=True, slots=True)
class Chart:
    """``source`` is a Mermaid diagram without its fence; ``legend`` says which line is what."""

    source: str
    legend: str


def chart(verdict: Verdict, metric: MetricVerdict, plot: Plot) -> Chart | None:
    """The metric over its windows; None where fewer than two points are known."""
    within = _within(metric, plot)
    if within.sum() < 2:
        return None
    edges = np.linspace(0, int(within.sum()), min(MOST_POINTS, int(within.sum())) + 1).astype(np.int64)
    times = _medians(plot.times[within], edges)
    measured = _medians(plot.values[within], edges)
    if np.isfinite(measured).sum() < 2:
        return None
    lines = [(measured, _MEASURED, words.sides(verdict.comparison)[1] if _canary(verdict) else "measured")]
    if _canary(verdict) and plot.stable is not None:
        lines.append((_medians(plot.stable[within], edges), _LEVEL, "stable"))
    elif plot.released_at is not None:
        lines.append((_step(verdict, plot, times), _LEVEL, "level before and after"))
    lines.append((_medians(plot.expected[within], edges), _EXPECTED, "expected at that time and load"))
    known = [line for line in lines if np.isfinite(line[0]).any()]
    legend = ", ".join(f"{colour[1]}: {label}" for _, colour, label in known)
    gaps = int((~np.isfinite(measured)).sum())
    if gaps:
        legend += f"; {gaps} of {len(measured)} points are missing and bridged"
    return Chart(_source(plot, times, [(line, colour[0]) for line, colour, _ in known]), f"{legend}.")


def _canary(verdict: Verdict) -> bool:
    return verdict.comparison == "canary"


def _within(metric: MetricVerdict, plot: Plot) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    """Where the windows before and after are; everything if the plot lies elsewhere."""
    start, end = metric.windows.before.start.timestamp(), metric.windows.after.end.timestamp()
    within = (plot.times >= start) & (plot.times <= end)
    return within if within.sum() >= 2 else np.ones(len(plot.times), np.bool_)


def _medians(values: Array, edges: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> Array:
    values = drawable(values)
    parts = [values[low:high] for low, high in pairwise(edges.tolist())]
    finite = [part[np.isfinite(part)] for part in parts]
    return np.array([np.median(part) if len(part) else math.nan for part in finite], np.float64)


def _step(verdict: Verdict, plot: Plot, times: Array) -> Array:
    """The two levels that were compared, whichever test the chart is for."""
    levels = [one for one in verdict.metrics if one.name == plot.name and one.test == "level"]
    before, after = (levels[0].before, levels[0].after) if levels else (None, None)
    sides = (math.nan if side is None else side for side in (before, after))
    return drawable(np.where(times < (plot.released_at or 0.0), *sides))


def _source(plot: Plot, times: Array, lines: list[tuple[Array, str]]) -> str:
    """Mermaid knows no missing points and no exponents."""
    filled = [np.interp(times, times[np.isfinite(line)], line[np.isfinite(line)]) for line, _ in lines]
    largest = max(float(np.abs(line).max()) for line in filled)
    factor, suffix = words.scale(plot.unit, largest)
    power = 0
    if plot.unit in ("1", "1/s", "ratio", "bytes") and largest > 0 and not 1e-2 <= largest / factor < 1e6:
        power = 3 * math.floor(math.log10(largest / factor) / 3)
    filled = [line / factor / 10.0**power for line in filled]
    low, high = min(float(line.min()) for line in filled), max(float(line.max()) for line in filled)
    margin = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    low = max(0.0, low - margin) if low >= 0 else low - margin
    digits = max(0, 3 - math.floor(math.log10(margin * 10)))
    unit = " ".join(one for one in (f"10^{power}" if power else "", suffix.strip()) if one) or "value"
    origin, since = (plot.released_at, "release") if plot.released_at is not None else (times[-1], "end")
    palette = ", ".join(colour for _, colour in lines)
    size = '{"width": 900, "height": 360}'
    theme = f'{{"xyChart": {{"plotColorPalette": "{palette}"}}}}'
    return "\n".join(
        [
            f'%%{{init: {{"xyChart": {size}, "themeVariables": {theme}}}}}%%',
            "xychart-beta",
            f'    title "{_title(plot.name)}"',
            f'    x-axis "minutes from the {since}" {_plain((times[0] - origin) / 60, 1)} --> '
            + _plain((times[-1] - origin) / 60, 1),
            f'    y-axis "{unit}" {_plain(low, digits)} --> {_plain(high + margin, digits)}',
            *(f"    line [{', '.join(_plain(point, digits) for point in line)}]" for line in filled),
        ]
    )


def _title(name: str) -> str:
    """The parser of Mermaid gets nothing but letters, digits and a few marks."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)[:63] or "_"


def _plain(number: float, digits: int) -> str:
    text = f"{number:.{digits}f}"
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return "0" if text == "-0" else text
