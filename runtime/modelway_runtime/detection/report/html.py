"""A verdict as one page: no script, nothing loaded from anywhere, light and dark."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from modelway_runtime.detection import sanitise
from modelway_runtime.detection import verdict as verdicts
from modelway_runtime.detection.judgement import Plot
from modelway_runtime.detection.report import plot as pictures
from modelway_runtime.detection.report import words
from modelway_runtime.detection.report.sparkline import shortened
from modelway_runtime.detection.verdict import MetricVerdict, State, Verdict

_BAR = 100.0
"""Half the width of the picture of an effect; zero lies in its middle."""
MARKS: dict[State, str] = {
    "regressed": "✕",
    "improved": "✓",
    "unchanged": "=",
    "pending": "…",
    "inconclusive": "?",
}


@dataclass(frozen=True, slots=True)
class Bar:
    """An effect between -100 and 100: its point, its interval, and the threshold to both sides of zero.

    Roots, not the shares themselves, so that a large effect leaves the small ones to be seen.
    """

    at: float
    low: float
    high: float
    threshold: float


@dataclass(frozen=True, slots=True)
class Panel:
    """One measured series: the tests on it, and its picture."""

    name: str
    state: State
    tests: tuple[MetricVerdict, ...]
    picture: Markup | None


def page(verdict: Verdict, plots: Sequence[Plot]) -> str:
    """A document of HTML that needs nothing beside itself."""
    metrics = words.ranked(verdict)
    panels = _panels(verdict, metrics, plots)
    text = _environment().get_template("page.html.j2").render(
        verdict=verdict,
        headline=words.headline(verdict, sanitise.name),
        metrics=metrics,
        bars=_bars(metrics),
        told=[panel for panel in panels if panel.state != "unchanged"],
        unchanged=[panel for panel in panels if panel.state == "unchanged"],
        document=sanitise.visible(verdicts.to_json(verdict).decode(), keep="\n"),
        sanitise=sanitise,
        words=words,
        shortened=shortened,
        marks=MARKS,
    )  # fmt: skip
    return f"{text}\n"


@functools.cache
def _environment() -> Environment:
    loader = PackageLoader("modelway_runtime.detection.report")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = lambda text: sanitise.visible(text, keep="\n")
    return environment


def _panels(verdict: Verdict, metrics: Sequence[MetricVerdict], plots: Sequence[Plot]) -> list[Panel]:
    """In the order of the metrics; plots that no metric names come last."""
    drawn = {plot.name: plot for plot in plots}
    panels = []
    for index, name in enumerate(dict.fromkeys([*(one.name for one in metrics), *drawn])):
        tests = tuple(one for one in metrics if one.name == name)
        picture = _picture(drawn[name], verdict, tests, f"plot{index}") if name in drawn else None
        panels.append(Panel(name, tests[0].state if tests else "unchanged", tests, picture))
    return panels


def _picture(plot: Plot, verdict: Verdict, tests: Sequence[MetricVerdict], prefix: str) -> Markup:
    clauses = [words.difference(verdict, one, sanitise.name) for one in tests]
    said = "; ".join(clause for clause in clauses if clause)
    svg = pictures.svg((plot,), verdict, titled=False, prefix=prefix, description=said)
    for name, colour in pictures.COLOURS.items():
        svg = svg.replace(colour, f"var(--plot-{name})")
    return Markup(svg)  # noqa: S704 - drawn by us; names in it are escaped


def _bars(metrics: Sequence[MetricVerdict]) -> list[Bar | None]:
    """All effects on one scale."""
    largest = max((abs(size) for metric in metrics for size in _ends(metric)), default=0.0) or 1.0
    return [_bar(metric, largest) for metric in metrics]


def _ends(metric: MetricVerdict) -> list[float]:
    if metric.effect is None or metric.effect.relative is None:
        return []
    found = (metric.effect.relative, metric.effect.low, metric.effect.high, metric.threshold)
    return [end for end in found if end is not None and math.isfinite(end)]


def _bar(metric: MetricVerdict, largest: float) -> Bar | None:
    ends = _ends(metric)
    if metric.effect is None or metric.effect.relative is None or metric.effect.relative not in ends:
        return None
    point = metric.effect.relative
    low, high = (point if end is None else end for end in (metric.effect.low, metric.effect.high))
    ends = [point, low, high, metric.threshold or 0.0]
    scaled = [round(math.copysign(math.sqrt(abs(end) / largest), end) * _BAR, 2) for end in ends]
    return Bar(*scaled)
