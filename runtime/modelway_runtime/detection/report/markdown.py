"""A verdict as the comment of a pull request, in the Markdown of GitHub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from modelway_runtime.detection import sanitise
from modelway_runtime.detection.judgement import Plot
from modelway_runtime.detection.report import words
from modelway_runtime.detection.report.mermaid import chart
from modelway_runtime.detection.report.sparkline import shortened
from modelway_runtime.detection.verdict import MetricVerdict, Rollout, State, Verdict

SMALLEST_BUDGET = 12_000
_ALERTS: dict[State, str] = {
    "regressed": "CAUTION",
    "improved": "TIP",
    "unchanged": "NOTE",
    "pending": "NOTE",
    "inconclusive": "WARNING",
}
_MARKS: dict[State, str] = {
    "regressed": "❌",
    "improved": "✅",
    "unchanged": "➖",
    "pending": "⏳",
    "inconclusive": "❔",
}
_FIRST_ROWS = 15
_SPARKLINE = 20
_SHA = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class _Section:
    """``name`` is said where the section is left out; the largest ``rank`` goes first."""

    name: str
    rank: int
    text: str


def comment(
    verdict: Verdict,
    plots: Sequence[Plot],
    *,
    budget: int = 60_000,
    page_url: str | None = None,
    revert: str | None = None,
) -> str:
    """The comment without its marker, in at most ``budget`` characters.

    Where they do not suffice, whole sections are left out, the least important first, and a line below
    the first sentence names them. Raises ValueError for a budget below ``SMALLEST_BUDGET``.
    """
    if budget < SMALLEST_BUDGET:
        raise ValueError(f"a comment needs {SMALLEST_BUDGET} characters, not {budget}")
    sections = [one for one in _sections(verdict, plots, page_url, revert) if one.text]
    left_out: list[_Section] = []
    while len(text := _join(verdict, sections, left_out, page_url)) > budget:
        least = max(sections, key=lambda one: one.rank)
        sections.remove(least)
        left_out.append(least)
    return text


def _join(verdict: Verdict, sections: list[_Section], left_out: list[_Section], page_url: str | None) -> str:
    parts = [f"> [!{_ALERTS[verdict.state]}]\n> **{words.headline(verdict, sanitise.code)}**"]
    if left_out:
        names = ", ".join(one.name for one in sorted(left_out, key=lambda one: one.rank))
        where = f" The {words.link('full report', page_url)} has them." if page_url else ""
        parts.append(f"Left out, as this comment would be too long: {names}.{where}")
    return "\n\n".join(parts + [one.text for one in sections]) + "\n"


def _sections(
    verdict: Verdict, plots: Sequence[Plot], page_url: str | None, revert: str | None
) -> list[_Section]:
    """In the order of the comment."""
    metrics = words.ranked(verdict)
    told = [one for one in metrics if one.state != "unchanged"]
    unchanged = [one for one in metrics if one.state == "unchanged"]
    command = sanitise.fence(revert, "sh") if revert and verdict.state == "regressed" else ""
    changed = [one for one in metrics if one.state in ("regressed", "improved")] or metrics[:1]
    return [
        _Section("when it is decided", 0, words.outlook(verdict)),
        _Section("the metrics", 1, _table(verdict, told[:_FIRST_ROWS])),
        _Section(
            "further metrics",
            7,
            _details(f"{len(told) - _FIRST_ROWS} more", _table(verdict, told[_FIRST_ROWS:])),
        ),
        _Section("the number of unchanged metrics", 2, _unchanged(verdict, unchanged)),
        _Section("the cause", 4, _cause(verdict)),
        _Section("the gate", 5, f"**Gate:** `{verdict.outcome}`: {words.gate(verdict)}."),
        _Section("how to revert", 3, f"Revert it with\n\n{command}" if command else ""),
        _Section("the chart", 8, _chart(verdict, metrics, plots)),
        _Section("the PromQL", 10, _queries("PromQL", changed)),
        _Section("the PromQL of further metrics", 13, _queries("PromQL of the others", metrics, changed)),
        _Section("windows and counts", 11, _details("Windows and counts", _windows(verdict, metrics))),
        _Section("unchanged metrics", 12, _details("Unchanged metrics", _table(verdict, unchanged))),
        _Section("the origin", 6, _origin(verdict, page_url)),
    ]


def _details(summary: str, text: str) -> str:
    return f"<details><summary>{summary}</summary>\n\n{text}\n\n</details>" if text else ""


def _rows(header: str, align: str, rows: list[list[str]]) -> str:
    return "\n".join([header, align, *(f"| {' | '.join(row)} |" for row in rows)])


def _table(verdict: Verdict, metrics: Sequence[MetricVerdict]) -> str:
    if not metrics:
        return ""
    before, after = words.sides(verdict.comparison)
    header = (
        f"| Metric | {before.capitalize()} → {after} | Effect ({words.confidence(metrics)}) | p "
        "| Visible from | Trend | |"
    )
    return _rows(header, "|---|---|---|--:|--:|---|---|", [_row(one) for one in metrics])


def _row(metric: MetricVerdict) -> list[str]:
    test = "" if metric.test == "level" else f", {metric.test}"
    values = " → ".join(words.sided(metric))
    interval = words.interval(metric)
    size = (
        f"**{words.effect(metric)}**" if metric.state in ("regressed", "improved") else words.effect(metric)
    )
    state = words.reason(metric) or metric.state
    return [
        f"{sanitise.code(metric.name)}{test}",
        values,
        f"{size} ({interval})" if interval else size,
        words.probability(metric.p).replace("<", "&lt;"),
        words.smallest(metric),
        shortened(metric.sparkline, _SPARKLINE).replace(" ", "\u00a0"),
        f"{_MARKS[metric.state]} {state}",
    ]


def _unchanged(verdict: Verdict, unchanged: Sequence[MetricVerdict]) -> str:
    parts = [f"{len(unchanged)} unchanged."] if unchanged else []
    if verdict.state in ("unchanged", "improved"):
        parts.append(words.seen(verdict, sanitise.code))
    return " ".join(filter(None, parts))


def _cause(verdict: Verdict) -> str:
    """Which rollout, commit and pull request, and which other rollouts it may have been."""
    lines = []
    if verdict.rollout:
        lines.append(f"**Rollout:** {_rollout(verdict.rollout)}")
    else:
        lines.append("**Rollout:** none is known")
    if verdict.commit:
        sha = verdict.commit.sha
        found = {"argocd": "as Argo CD says", "history": "the newest that changed this model"}
        # GitHub makes a link of a whole hash that is not code.
        shown = sha if _SHA.fullmatch(sha) else sanitise.code(sha)
        line = f"**Commit:** {shown}, {found[verdict.commit.found_by]}"
        if verdict.pull_request:
            line += f", of {words.link(f'#{verdict.pull_request.number}', verdict.pull_request.url)}"
        lines.append(line)
    if verdict.other_rollouts:
        lines.append(f"**Other rollouts in the windows**{words.blame(verdict)}:")
    text = "  \n".join(lines)
    listed = "\n".join(f"- {_rollout(one)}" for one in verdict.other_rollouts[:10])
    more = len(verdict.other_rollouts) - 10
    if more > 0:
        listed += f"\n- and {more} more"
    return f"{text}\n\n{listed}" if listed else text


def _rollout(rollout: Rollout) -> str:
    model, version = sanitise.code(rollout.model), sanitise.code(rollout.version)
    name = f"{model} {version} in {sanitise.code(rollout.namespace)}"
    pods = f", pods {sanitise.code(rollout.hash)}" if rollout.hash else ""
    return f"{name} at {words.time(rollout.started_at)}{pods}"


def _chart(verdict: Verdict, metrics: Sequence[MetricVerdict], plots: Sequence[Plot]) -> str:
    """Of the metric that matters most and can be drawn."""
    by_name = {plot.name: plot for plot in plots}
    for metric in metrics:
        drawn = chart(verdict, metric, by_name[metric.name]) if metric.name in by_name else None
        if drawn:
            block = sanitise.fence(drawn.source, "mermaid")
            summary = f"Chart of {sanitise.html_code(metric.name)}"
            return _details(summary, f"{block}\n\n{drawn.legend.capitalize()}")
    return ""


def _queries(summary: str, metrics: Sequence[MetricVerdict], without: Sequence[MetricVerdict] = ()) -> str:
    known = {query for metric in without for query in metric.queries}
    queries = dict.fromkeys(query for metric in metrics for query in metric.queries if query not in known)
    return _details(summary, "\n\n".join(sanitise.fence(query, "promql") for query in queries))


def _windows(verdict: Verdict, metrics: Sequence[MetricVerdict]) -> str:
    if not metrics:
        return ""
    before, after = words.sides(verdict.comparison)
    header = (
        f"| Metric | History (samples) | {before.capitalize()} (samples) | {after.capitalize()} (samples) "
        "| Missing | Load | Threshold |"
    )
    rows = [
        [
            f"{sanitise.code(one.name)}, {one.test}",
            f"{words.window(one.windows.history)} ({one.counts.history})",
            f"{words.window(one.windows.before)} ({one.counts.before})",
            f"{words.window(one.windows.after)} ({one.counts.after})",
            words.percent(one.missing_ratio),
            words.percent(one.load_change, signed=True),
            words.percent(one.threshold),
        ]
        for one in metrics
    ]
    return _rows(header, "|---|---|---|---|--:|--:|--:|", rows)


def _origin(verdict: Verdict, page_url: str | None) -> str:
    first = next(iter(words.ranked(verdict)), None)
    spans = ""
    if first:
        before, after = words.sides(verdict.comparison)
        spans = (
            f" · {before} {words.window(first.windows.before)}, {after} {words.window(first.windows.after)}"
        )
    report = f" · {words.link('full report', page_url)}" if page_url else ""
    return (
        f"<sub>Judged {words.time(verdict.judged_at)}{spans} · "
        f"series {sanitise.code(verdict.series_digest)} · "
        f"detector {sanitise.code(verdict.detector_version)}{report} · "
        "reproduce: `modelway-runtime replay VERDICT.json`</sub>"
    )
