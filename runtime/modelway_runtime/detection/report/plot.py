"""Pictures of the series behind a verdict, drawn by matplotlib without a screen.

The same input gives the same bytes: no date, no random identifiers, none of the user's styles.
"""

from __future__ import annotations

import html
import importlib
import io
import os
import re
import sys
import tempfile
import threading
from collections.abc import Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any

import numpy as np

from modelway_runtime.detection import sanitise
from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.judgement import Plot
from modelway_runtime.detection.report import words
from modelway_runtime.detection.report.sparkline import binned, drawable
from modelway_runtime.detection.verdict import BucketRange, MetricVerdict, Resolved, Verdict

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Each colour once, so that a page can put its own theme in their place.
COLOURS = {
    "paper": "#fefefe",
    "ink": "#24292f",
    "muted": "#656d76",
    "grid": "#e4e8ec",
    "after": "#f6f1e7",
    "band": "#cfe1f7",
    "expected": "#7d8590",
    "values": "#0b62d6",
    "stable": "#0f7b6c",
    "level": "#c2410c",
    "release": "#1f2937",
    "other": "#8b949e",
    "change": "#8250df",
}
_MOST_POINTS = 1500
# Inches: of the picture, of the axes of a panel, and of what stands around them.
_WIDTH, _AXES = 9.6, 2.15
_LEFT, _RIGHT, _BOTTOM, _LEGEND, _TITLE = 0.85, 0.15, 0.55, 0.35, 0.3
_DAY = 86_400.0
# Matplotlib keeps its settings and fonts in the process: one drawing at a time.
_DRAWING = threading.Lock()
_RC: Any = {
    "svg.hashsalt": "modelway",
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "timezone": "UTC",
    "axes.unicode_minus": True,
    "path.simplify": True,
}


def svg(
    plots: Sequence[Plot],
    verdict: Verdict | None = None,
    *,
    titled: bool = True,
    prefix: str = "plot",
    description: str = "",
) -> str:
    """One ``<svg>`` element, a panel for each plot. The verdict adds the levels that were compared.

    ``prefix`` keeps the identifiers of several pictures on one page apart.
    """
    drawn = _draw(
        plots, verdict, titled, "svg", {"Date": None, "Creator": None, "Format": None, "Type": None}
    )
    text = drawn.decode()
    text = text[text.index("<svg") :]
    text = re.sub(r'(id="|="#|url\(#)', rf"\g<1>{prefix}-", text)
    title = ", ".join(sanitise.name(plot.name) for plot in plots) or "No series"
    named = (
        f'<title id="{prefix}-title">{html.escape(title)}</title>\n'
        f'<desc id="{prefix}-desc">{html.escape(description or f"{title} over time")}</desc>\n'
    )
    opening, body = text.split(">", 1)
    return f'{opening} role="img" aria-labelledby="{prefix}-title {prefix}-desc">\n{named}{body.strip()}\n'


def png(plots: Sequence[Plot], verdict: Verdict | None = None) -> bytes:
    """The same picture as a PNG, 130 dots an inch."""
    return _draw(plots, verdict, True, "png", {"Software": None})


def _draw(
    plots: Sequence[Plot], verdict: Verdict | None, titled: bool, kind: str, metadata: dict[str, Any]
) -> bytes:
    with _DRAWING:
        _load_matplotlib()
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    file = io.BytesIO()
    with _DRAWING, mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_RC)
        figure = Figure(figsize=(_WIDTH, _height(titled) * max(1, len(plots))), facecolor=COLOURS["paper"])
        (FigureCanvasSVG if kind == "svg" else FigureCanvasAgg)(figure)
        _panels(figure, plots, verdict, titled)
        figure.savefig(file, format=kind, dpi=130, metadata=metadata)
    return file.getvalue()


def _load_matplotlib() -> None:
    """Have matplotlib look for fonts without keeping their list in the home folder, where it would also look
    for the user's styles."""
    if "matplotlib" in sys.modules or "MPLCONFIGDIR" in os.environ:
        return
    with tempfile.TemporaryDirectory(prefix="modelway-") as folder:
        os.environ["MPLCONFIGDIR"] = folder  # read when it is imported
        try:
            importlib.import_module("matplotlib.font_manager")
        finally:
            del os.environ["MPLCONFIGDIR"]


def _height(titled: bool) -> float:
    return _BOTTOM + _AXES + _LEGEND + (_TITLE if titled else 0.0)


def _panels(figure: Figure, plots: Sequence[Plot], verdict: Verdict | None, titled: bool) -> None:
    if not plots:
        figure.text(0.5, 0.5, "no series", ha="center", color=COLOURS["muted"])
        return
    height = _height(titled)
    wide, high = (_WIDTH - _LEFT - _RIGHT) / _WIDTH, _AXES / height / len(plots)
    levels = {one.name: one for one in verdict.metrics if one.test == "level"} if verdict else {}
    for index, plot in enumerate(plots):
        bottom = (len(plots) - 1 - index + _BOTTOM / height) / len(plots)
        axes = figure.add_axes((_LEFT / _WIDTH, bottom, wide, high))
        _panel(axes, plot, levels.get(plot.name))
        for artist in axes.findobj(lambda one: one.get_gid() is not None):
            artist.set_gid(f"{artist.get_gid()}-{index}")
        if titled:
            axes.set_title(
                sanitise.ascii_name(plot.name, 80), loc="left", pad=24, weight="bold", parse_math=False,
                color=COLOURS["ink"],
            )  # fmt: skip


def _panel(axes: Axes, plot: Plot, metric: MetricVerdict | None) -> None:
    series = [plot.values, plot.expected, plot.low, plot.high]
    stable = plot.stable if plot.stable is not None else np.full(len(plot.times), np.nan)
    times = binned(plot.times, _MOST_POINTS) / _DAY
    values, expected, low, high, stable = (_drawable(one) for one in [*series, stable])
    levels = [one for one in (metric.before, metric.after) if one is not None] if metric else []
    bottom, top = _limits([values, stable, expected, low, high, np.array(levels, np.float64)])
    factor, suffix = words.scale(plot.unit, max(abs(bottom), abs(top)))
    bottom, top = bottom / factor, top / factor
    _lines(axes, times, [one / factor for one in (values, expected, low, high, stable)], plot)
    _outliers(axes, times, values / factor, bottom, top)
    _moments(axes, plot, times)
    if metric:
        _levels(axes, metric, factor)
    axes.set_ylim(bottom, top)
    if not np.isfinite(values).any():
        axes.text(0.5, 0.5, "no samples", transform=axes.transAxes, ha="center", color=COLOURS["muted"])
    _decorate(axes, suffix)


def _drawable(series: Array) -> Array:
    """Few enough points."""
    return binned(drawable(series), _MOST_POINTS)


def _limits(series: list[Array]) -> tuple[float, float]:
    """Around 99 % of the points: a few spikes do not flatten the rest."""
    ends = []
    for one in series:
        finite = one[np.isfinite(one)]
        if len(finite):
            ends += list(np.percentile(finite, (0.5, 99.5)))
    if not ends:
        return 0.0, 1.0
    low, high = float(min(ends)), float(max(ends))
    margin = (high - low) * 0.15 or abs(high) * 0.2 or 1.0
    return (max(0.0, low - margin) if low >= 0 else low - margin), high + margin


def _lines(axes: Axes, times: Array, series: list[Array], plot: Plot) -> None:
    values, expected, low, high, stable = series
    if np.isfinite(low + high).any():
        axes.fill_between(
            times, low, high, color=COLOURS["band"], linewidth=0, label="usual range", gid="band", zorder=1
        )
    if np.isfinite(expected).any():
        axes.plot(
            times,
            expected,
            color=COLOURS["expected"],
            linewidth=1.1,
            dashes=(4, 2),
            label="expected",
            zorder=2,
        )
    if plot.stable is not None:
        _measured(axes, times, stable, "stable", "stable version")
    _measured(axes, times, values, "values", "canary" if plot.stable is not None else "measured")


def _measured(axes: Axes, times: Array, values: Array, colour: str, label: str) -> None:
    axes.plot(times, values, color=COLOURS[colour], linewidth=1.3, label=label, gid=colour, zorder=4)
    known = np.concatenate([[False], np.isfinite(values), [False]])
    alone = known[1:-1] & ~known[:-2] & ~known[2:]  # a line of one point is not seen
    if alone.any():
        axes.plot(times[alone], values[alone], ".", color=COLOURS[colour], markersize=5, zorder=4)


def _outliers(axes: Axes, times: Array, values: Array, bottom: float, top: float) -> None:
    """What lies beyond the picture is marked at its edge."""
    for beyond, edge, marker in ((values > top, top, 6), (values < bottom, bottom, 7)):
        if beyond.any():
            axes.plot(
                times[beyond], np.full(int(beyond.sum()), edge), linestyle="", marker=marker, markersize=4,
                color=COLOURS["values"], clip_on=False, zorder=5,
            )  # fmt: skip


def _moments(axes: Axes, plot: Plot, times: Array) -> None:
    """Releases and change points within the picture."""
    start, end = (float(times[0]), float(times[-1])) if len(times) else (0.0, 1.0)
    if end - start < 60 / _DAY:
        start, end = start - 1800 / _DAY, end + 1800 / _DAY
    axes.set_xlim(start, end)
    released = () if plot.released_at is None else (plot.released_at,)
    styles: list[tuple[tuple[float, ...], str, str, Any, str]] = [
        (plot.change_points, "change", "change point", (0, (5, 2)), "change-point"),
        (plot.others_released_at, "other", "other release", (0, (1, 1.5)), "other-release"),
        (released, "release", "release", "solid", "release"),
    ]
    for moments, colour, label, style, gid in styles:
        within = [moment / _DAY for moment in moments if start <= moment / _DAY <= end]
        for index, moment in enumerate(within):
            axes.axvline(
                moment, color=COLOURS[colour], linewidth=1.4, linestyle=style, zorder=3,
                label=label if index == 0 else None, gid=f"{gid}{index}",
            )  # fmt: skip
    if released and start < released[0] / _DAY < end:
        axes.axvspan(released[0] / _DAY, end, color=COLOURS["after"], linewidth=0, zorder=0)


def _levels(axes: Axes, metric: MetricVerdict, factor: float) -> None:
    """The two values that were compared, over the windows that they are of."""
    label = "compared levels"
    for value, window in ((metric.before, metric.windows.before), (metric.after, metric.windows.after)):
        if value is None:
            continue
        start, end = window.start.timestamp() / _DAY, window.end.timestamp() / _DAY
        if isinstance(metric.buckets, Resolved):
            side = metric.buckets.before if window is metric.windows.before else metric.buckets.after
            _bucket(axes, (start, end), side, factor, label)
            label = "_nolegend_"
            continue
        axes.hlines(value / factor, start, end, color=COLOURS["level"], linewidth=2.4, zorder=6, label=label)
        label = "_nolegend_"


def _bucket(axes: Axes, span: tuple[float, float], side: BucketRange, factor: float, label: str) -> None:
    """The bucket that a level is in: where in it is not known."""
    low, high = axes.get_ylim()
    low = low if side.low is None else side.low / factor
    high = high if side.high is None else side.high / factor
    axes.fill_between(
        span, low, high, color=COLOURS["level"], alpha=0.25, linewidth=0, zorder=6, label=label, gid="bucket"
    )


def _decorate(axes: Axes, suffix: str) -> None:
    import matplotlib.dates
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    dates: Any = matplotlib.dates  # has no types
    locator = dates.AutoDateLocator(tz=UTC, minticks=4, maxticks=9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(dates.ConciseDateFormatter(locator, tz=UTC))
    axes.yaxis.set_major_locator(MaxNLocator(5))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.10g}{suffix}"))
    axes.set_xlabel("UTC", color=COLOURS["muted"], fontsize=8.5)
    axes.grid(axis="y", color=COLOURS["grid"], linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_facecolor(COLOURS["paper"])
    axes.tick_params(colors=COLOURS["muted"], length=3, labelsize=9)
    axes.xaxis.get_offset_text().set_color(COLOURS["muted"])
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(COLOURS["grid"])
    axes.legend(
        loc="lower left", bbox_to_anchor=(0, 1.0), ncols=8, frameon=False, fontsize=8.5, borderpad=0,
        borderaxespad=0.4, handlelength=1.7, columnspacing=1.4, labelcolor=COLOURS["ink"],
    )  # fmt: skip
