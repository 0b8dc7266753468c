"""What every form of a report says: numbers with units, effects, and sentences about a verdict.

Names are written by others: each sentence passes them through ``quote``, by which a form shows them.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import TypeAlias

from modelway_runtime.detection.sanitise import html_code
from modelway_runtime.detection.verdict import (
    BucketRange,
    Comparison,
    MetricVerdict,
    Outcome,
    Pods,
    Reason,
    Resolved,
    State,
    Unit,
    Verdict,
    Window,
)

Quote: TypeAlias = Callable[[str], str]

UNKNOWN = "–"
# Next to where a percentage overflows; not a number is no less than it either.
_TOO_LARGE = 1e300
TITLES: dict[State, str] = {
    "regressed": "Regressed",
    "improved": "Improved",
    "unchanged": "Unchanged",
    "pending": "Pending",
    "inconclusive": "Inconclusive",
}
_WORST_FIRST: tuple[State, ...] = ("regressed", "improved", "inconclusive", "pending", "unchanged")
_REASONS: dict[Reason, str] = {
    "no_data": "there is no data for it",
    "history_too_short": "its history is too short to tell what is normal",
    "load_outside_history": "its load is outside what the history has seen",
    "too_many_gaps": "too many of its samples are missing",
    "too_few_pods": "fewer than three stable pods, or none of the canary, can be told apart",
    "buckets_changed": "the buckets of its histogram changed, and those that both sides have are too coarse",
}
_NEXT: dict[Reason, str] = {
    "no_data": "It is decided by the first run that finds samples: see whether Prometheus scrapes the model.",
    "history_too_short": "It is decided once there is history enough; nine days always are.",
    "load_outside_history": "It is decided by the first run after the load is back within its history.",
    "too_many_gaps": "It is decided by the first run whose windows are filled: see why scrapes fail.",
    "too_few_pods": "It is decided by the first run with three stable pods, scraped with the label `pod`.",
    "buckets_changed": "It is decided once both sides have the same buckets, or by hand.",
}
_GATE: dict[Outcome, str] = {
    "failure": "a canary that asks is aborted, and the stable version keeps serving",
    "success": "a canary that asks goes on",
    "inconclusive": "a canary that asks pauses, and is neither promoted nor aborted",
}
_SCALES: dict[Unit, tuple[tuple[float, str], ...]] = {
    "s": ((1e-6, " µs"), (1e-3, " ms"), (1.0, " s")),
    "1/s": ((1.0, "/s"),),
    "bytes": ((1.0, " B"), (2.0**10, " KiB"), (2.0**20, " MiB"), (2.0**30, " GiB"), (2.0**40, " TiB")),
    "ratio": ((0.01, " %"),),
    "1": ((1.0, ""),),
}


_URL = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~%/?=&#:+,@!;-]*)?")


def safe_url(url: str) -> str | None:
    """The address if it is one of the web and has no character that could end a link, else None."""
    return url if len(url) <= 2048 and _URL.fullmatch(url) else None


def link(label: str, url: str) -> str:
    """A link of Markdown. ``label`` is Markdown of ours; an odd address is shown, not linked."""
    return f"[{label}](<{html.escape(url)}>)" if safe_url(url) else f"{label} ({html_code(url)})"


def scale(unit: Unit, size: float) -> tuple[float, str]:
    """What to divide by, and what to write behind, for numbers about as large as ``size``."""
    scales = _SCALES[unit]
    return next((one for one in reversed(scales) if abs(size) >= one[0] * 0.9995), scales[0])


def value(number: float | None, unit: Unit, *, signed: bool = False) -> str:
    """Three significant digits and the unit: ``41 ms``, ``1.5 GiB``, ``0.04 %``."""
    if number is None or not abs(number) < _TOO_LARGE:
        return UNKNOWN
    factor, suffix = scale(unit, number)
    if number == 0:
        suffix = {"s": " s", "bytes": " B"}.get(unit, suffix)
    return _digits(number / factor, signed=signed) + suffix


def percent(share: float | None, *, signed: bool = False) -> str:
    """A share as a percentage: 0.268 is ``26.8 %``."""
    if share is None or not abs(share) < _TOO_LARGE:
        return UNKNOWN
    return f"{_digits(share * 100, signed=signed)} %"


def _digits(number: float, *, signed: bool = False) -> str:
    if number == 0 or abs(number) < 1e-300:
        return "0"
    exponent = math.floor(math.log10(abs(number)))
    if not -5 <= exponent < 9:
        return f"{number:{'+' if signed else ''}.3g}"
    text = f"{number:{'+' if signed else ''},.{max(0, 2 - exponent)}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def effect(metric: MetricVerdict) -> str:
    """Relative to the value before; absolute where that is zero."""
    if metric.effect is None:
        return UNKNOWN
    if metric.effect.relative is not None:
        drawn = "~" if isinstance(metric.buckets, Resolved) else ""  # between bounds, and not measured
        return drawn + percent(metric.effect.relative, signed=True)
    absolute = value(metric.effect.absolute, metric.unit, signed=True)
    return absolute.replace("%", "points") if metric.unit == "ratio" else absolute


def interval(metric: MetricVerdict) -> str:
    """Of the relative effect; empty where it is unknown. Buckets may have no bound on one side."""
    if metric.effect is None or metric.effect.relative is None:
        return ""
    low, high = metric.effect.low, metric.effect.high
    if low is None and high is None:
        return ""
    if low is None or high is None:
        end = percent(high if low is None else low, signed=True)
        return f"{end} or {'less' if low is None else 'more'}"
    return f"{percent(low, signed=True).removesuffix(' %')} to {percent(high, signed=True)}"


def sided(metric: MetricVerdict) -> tuple[str, str]:
    """Both compared values; of a quantile of a histogram the buckets that they are in."""
    if not isinstance(metric.buckets, Resolved):
        return value(metric.before, metric.unit), value(metric.after, metric.unit)
    before, after = (_bucket(each, metric.unit) for each in (metric.buckets.before, metric.buckets.after))
    return before, after


def _bucket(side: BucketRange, unit: Unit) -> str:
    if side.low is None or side.high is None:
        end = value(side.high if side.low is None else side.low, unit)
        return UNKNOWN if end == UNKNOWN else f"{'≤' if side.low is None else '>'} {end}"
    low, high = value(side.low, unit), value(side.high, unit)
    same = scale(unit, side.low)[1] == scale(unit, side.high)[1]
    return f"{low.split(' ')[0] if same else low}–{high}"


def confidence(metrics: Iterable[MetricVerdict]) -> str:
    """``95 % interval`` where all intervals are alike."""
    levels = {metric.effect.confidence for metric in metrics if metric.effect}
    return f"{percent(levels.pop())} interval" if len(levels) == 1 else "interval"


def probability(p: float | None) -> str:
    if p is None or not math.isfinite(p):
        return UNKNOWN
    return "< 0.0001" if p < 0.0001 else f"{p:.2g}" if p < 0.1 else f"{p:.2f}"


def smallest(metric: MetricVerdict) -> str:
    """The smallest effect that could have been seen, in both directions."""
    share = percent(metric.smallest_effect)
    return share if share == UNKNOWN else f"±{share}"


def time(moment: datetime) -> str:
    moment = moment.astimezone(UTC)
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC" if moment.second else f"{moment:%Y-%m-%d %H:%M} UTC"


def window(span: Window | None) -> str:
    """``2026-11-21 06:00 to 10:00 UTC``."""
    if span is None:
        return UNKNOWN
    start, end = span.start.astimezone(UTC), span.end.astimezone(UTC)
    end_text = f"{end:%H:%M}" if start.date() == end.date() else f"{end:%Y-%m-%d %H:%M}"
    return f"{start:%Y-%m-%d %H:%M} to {end_text} UTC"


def sides(comparison: Comparison) -> tuple[str, str]:
    """What the two compared sides are called."""
    return ("stable", "canary") if comparison == "canary" else ("before", "after")


def count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def ranked(verdict: Verdict) -> tuple[MetricVerdict, ...]:
    """The metrics by how much they matter: what changed, and by how much of its threshold, first."""
    return tuple(sorted(verdict.metrics, key=_rank))


def _rank(metric: MetricVerdict) -> tuple[int, float]:
    size = 0.0
    if metric.effect is not None:
        relative = metric.effect.relative
        size = abs(relative) if relative is not None else math.inf if metric.effect.absolute else 0.0
    return _WORST_FIRST.index(metric.state), -size / (metric.threshold or 1.0)


def what(metric: MetricVerdict, quote: Quote) -> str:
    """The metric, and what of it was judged."""
    of = {"level": "", "spread": "the spread of ", "distribution": "the distribution of "}[metric.test]
    return of + quote(metric.name)


def subject(verdict: Verdict, quote: Quote) -> str:
    version = f" {quote(verdict.rollout.version)}" if verdict.rollout else ""
    canary = " (canary)" if verdict.comparison == "canary" else ""
    return f"{quote(verdict.model)}{version}{canary} in {quote(verdict.environment)}"


def difference(verdict: Verdict, metric: MetricVerdict, quote: Quote) -> str:
    """Value against baseline, as a clause; empty where one of the two is unknown."""
    if metric.before is None or metric.after is None:
        return ""
    before, after = sided(metric)
    drawn = isinstance(metric.buckets, Resolved)
    size = f" ({(drawn and interval(metric)) or effect(metric)})" if metric.effect else ""
    of = what(metric, quote)
    if metric.test != "level":  # the levels say nothing of it
        beside = " beside the stable version" if verdict.comparison == "canary" else ""
        return f"{of} {_verb(metric)}{size}{beside}"
    if verdict.comparison == "canary":
        return f"{of} is {after} against {before} in the stable version{size}"
    if before == after:
        moved = _verb(metric) if drawn and metric.state in ("regressed", "improved") else "stayed"
        return f"{of} {moved} {'within' if drawn else 'at'} {after}{size}"
    if _rises(metric) != (metric.after > metric.before):
        return f"{of} is at {after}, {_verb(metric)} for the time of day and load{size}"
    return f"{of} {_verb(metric)} from {before} to {after}{size}"


def _rises(metric: MetricVerdict) -> bool:
    """By the effect, out of which time of day and load are taken; by the values where it is unknown."""
    if metric.effect is not None and metric.effect.relative:
        return metric.effect.relative > 0
    return (metric.after or 0.0) > (metric.before or 0.0)


def _verb(metric: MetricVerdict) -> str:
    if metric.test == "distribution":
        return "moved"
    rose, fell = ("rose", "fell") if metric.test == "level" else ("grew", "shrank")
    return rose if _rises(metric) else fell


def headline(verdict: Verdict, quote: Quote) -> str:
    """The verdict in one sentence."""
    about = subject(verdict, quote)
    first = next((one for one in ranked(verdict) if difference(verdict, one, quote)), None)
    clause = difference(verdict, first, quote) if first else ""
    if verdict.state in ("regressed", "improved"):
        side = "worse" if verdict.state == "regressed" else "better"
        when = {"release": " after the release", "watch": ", with no rollout known", "canary": ""}
        more = sum(metric.state == verdict.state for metric in verdict.metrics) - 1
        also = f", and {count(more, 'more metric')} got {side}" if more > 0 else ""
        return f"{about} got {side}: {clause}{when[verdict.comparison]}{also}."
    if verdict.state == "unchanged":
        return f"{about} did not change beyond what is usual{f'; most of all {clause}' if clause else ''}."
    so_far = f": so far {clause}" if clause else ""
    if verdict.state == "pending":
        return f"{about} is not decided yet{so_far}."
    return f"{about} cannot be judged, because {reason(verdict)}{so_far}."


def reason(verdict: Verdict | MetricVerdict) -> str:
    """Why it is inconclusive, as a clause; empty in other states."""
    return _REASONS[verdict.reason] if isinstance(verdict.reason, str) else ""


def outlook(verdict: Verdict) -> str:
    """When it will be decided; empty where it is."""
    if isinstance(verdict.decided_at, datetime):
        return f"It is decided at {time(verdict.decided_at)}, when the window after the rollout is over."
    return _NEXT[verdict.reason] if isinstance(verdict.reason, str) else ""


def gate(verdict: Verdict) -> str:
    """What a gate does with this outcome."""
    strictness = {"normal": "comments", "low": "gates"}[verdict.sensitivity]
    return f"{_GATE[verdict.outcome]} (judged with the strictness for {strictness})"


def seen(verdict: Verdict, quote: Quote) -> str:
    """From which size on a change would have been seen, over all metrics; empty where unknown."""
    known = [one for one in verdict.metrics if one.test == "level" and one.smallest_effect is not None]
    if not known:
        return ""
    best, worst = (pick(known, key=lambda one: one.smallest_effect or 0.0) for pick in (min, max))
    text = f"A change of {smallest(best)} in {quote(best.name)}"
    if worst is not best:
        text += f", and of {smallest(worst)} in {quote(worst.name)},"
    return f"{text} would have been seen{_beside(best)}."


def _beside(metric: MetricVerdict) -> str:
    """By how many pods."""
    if not isinstance(metric.pods, Pods):
        return ""
    return f" by {count(metric.pods.canary, 'canary pod')} beside {count(metric.pods.stable, 'stable pod')}"


def blame(verdict: Verdict) -> str:
    """What other rollouts have to do with it, behind their name."""
    return ", possible causes as well" if verdict.state in ("regressed", "improved") else ""
