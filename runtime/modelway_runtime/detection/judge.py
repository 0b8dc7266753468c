"""From evidence to a verdict: the tests of all metrics, and which of their findings count."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import replace

import msgspec
import numpy as np

from modelway_runtime import __version__
from modelway_runtime.detection import canary, plots, release, rolling
from modelway_runtime.detection.evidence import Evidence, Measured, Pod, Series
from modelway_runtime.detection.finding import Finding, Span
from modelway_runtime.detection.judgement import Judgement
from modelway_runtime.detection.metric_verdicts import metric_verdict
from modelway_runtime.detection.numerics import false_discoveries
from modelway_runtime.detection.resolution import ranges
from modelway_runtime.detection.settings import Sensitivity
from modelway_runtime.detection.verdict import (
    OUTCOMES,
    Comparison,
    MetricVerdict,
    Reason,
    Rollout,
    State,
    Verdict,
    moment,
)

SHARES: dict[Comparison, dict[Sensitivity, float]] = {
    "release": {"normal": 0.005, "low": 0.001},
    "canary": {"normal": 0.01, "low": 0.01},
    "watch": {"normal": 0.0003, "low": 0.0001},
}
"""Share of false discoveries that a verdict may hold. What comes of it: ``benchmarks/detection.py``."""
_HIGHEST = 1e30
"""Beyond it a number is no measurement: a terabyte of memory has thirteen digits."""
_WEIGHT_OF_REASONS: tuple[Reason, ...] = (
    "no_data", "too_many_gaps", "too_few_pods", "buckets_changed", "load_outside_history",
    "history_too_short",
)  # fmt: skip


def judge(evidence: Evidence) -> Judgement:
    """The same evidence gives the same judgement."""
    share = _share_of(evidence)
    known = _known(evidence)
    findings = [_weighed(evidence, finding) for finding in _findings(known)]
    counted, tests = discoveries(findings, share), _tests(findings)
    findings = [
        finding if counts else _unless_buckets_changed(finding)
        for finding, counts in zip(findings, counted, strict=True)
    ]
    found = tuple(
        metric_verdict(finding, counts, share, tests)
        for finding, counts in zip(findings, counted, strict=True)
    )
    return Judgement(_verdict(evidence, findings, found), plots.plots(known, findings, found))


def _share_of(evidence: Evidence) -> float:
    share = SHARES[evidence.comparison][evidence.sensitivity]
    if evidence.comparison != "canary":
        return share
    assert evidence.started_at is not None, "a canary has a rollout"
    return canary.share_of_look(share, evidence.started_at, evidence.now)


def _known(evidence: Evidence) -> Evidence:
    """With what no metric can be as missing: infinities, numbers beyond all measure, shares beyond one."""

    def series(one: Series, highest: float = _HIGHEST, lowest: float = -_HIGHEST) -> Series:
        with np.errstate(invalid="ignore"):
            possible = (one.values <= highest) & (one.values >= lowest)
            possible &= (one.values == 0) | (np.abs(one.values) >= 1 / _HIGHEST)
        return replace(one, values=np.where(possible, one.values, np.nan))

    def measured(one: Measured) -> Measured:
        bounds = (1.0, 0.0) if one.pattern.metric == "error_ratio" else (_HIGHEST, -_HIGHEST)
        stable = None if one.stable is None else series(one.stable, *bounds)
        return replace(
            one,
            series=series(one.series, *bounds),
            stable=stable,
            pods=tuple(pod(each, bounds) for each in one.pods),
            stable_pods=tuple(pod(each, bounds) for each in one.stable_pods),
        )

    def pod(one: Pod, bounds: tuple[float, float]) -> Pod:
        return replace(one, load=series(one.load, lowest=0.0), series=series(one.series, *bounds))

    return replace(
        evidence,
        load=series(evidence.load, lowest=0.0),
        stable_load=None if evidence.stable_load is None else series(evidence.stable_load, lowest=0.0),
        measured=tuple(measured(one) for one in evidence.measured),
    )


def _weighed(evidence: Evidence, finding: Finding) -> Finding:
    """A pattern of low sensitivity gets a smaller part of the share than the verdict's others."""
    shares = SHARES[evidence.comparison]
    if finding.measured.pattern.sensitivity == evidence.sensitivity or evidence.sensitivity == "low":
        return finding
    return replace(finding, weight=finding.weight * shares["low"] / shares["normal"])


def discoveries(findings: Sequence[Finding], share: float) -> list[bool]:
    """Which findings count as a change: those that the false discovery rate of the whole verdict lets
    through (with weights; Genovese, Roeder and Wasserman, Biometrika 93, 2006), that matter and last."""
    sized = [index for index, finding in enumerate(findings) if finding.size is not None]
    shares = np.array([_share(findings[index]) for index in sized], np.float64)
    passed = dict(zip(sized, false_discoveries(shares, share), strict=True))
    return [bool(passed.get(index)) and _matters(finding) for index, finding in enumerate(findings)]


def _share(finding: Finding) -> float:
    assert finding.size is not None
    return min(finding.size.p / finding.weight, 1.0)


def _unless_buckets_changed(finding: Finding) -> Finding:
    """A level that did not change on the bounds that both sides have. Where a finer bound was lost, a change
    between these would not have been seen."""
    if finding.test != "level" or finding.size is None:
        return finding
    known = ranges(finding.measured, finding.context.span)
    if known is None or not known.changed:
        return finding
    return replace(finding, size=None, reason="buckets_changed")


def _matters(finding: Finding) -> bool:
    """A level in relative terms; a spread by its factor, whichever way."""
    assert finding.size is not None
    effect = finding.size.effect
    size = finding.relative(abs(effect)) if finding.test == "spread" else abs(finding.relative(effect))
    return finding.lasts and size >= finding.minimum


def _tests(findings: Sequence[Finding]) -> int:
    return max(sum(finding.size is not None for finding in findings), 1)


def _findings(evidence: Evidence) -> list[Finding]:
    if evidence.comparison == "watch":
        return [
            rolling.latest(one, evidence.load, evidence.now, _earlier(evidence, evidence.now))
            for one in evidence.measured
        ]
    start = evidence.started_at
    assert start is not None, "a release and a canary have a rollout"
    test = _canary if evidence.comparison == "canary" else _release
    return [finding for one in evidence.measured for finding in test(evidence, one, start)]


def _release(evidence: Evidence, one: Measured, start: float) -> Sequence[Finding]:
    end = start + one.pattern.window_s
    if evidence.now < end:
        span = Span(one.series.start, start - release.BEFORE_S, start, evidence.now)
        form = release.form_of(one)
        context = release.context_of(one.series, evidence.load, span, form)
        ready = release.prepared(one, evidence.load, start, evidence.now, _earlier(evidence, start))
        return [Finding(one, "level", form, context, pending=True, shown=release.shown(ready))]
    ready = release.prepared(one, evidence.load, start, end, _earlier(evidence, start))
    return release.findings(ready, evidence.load, start, end)


def _canary(evidence: Evidence, one: Measured, start: float) -> Sequence[Finding]:
    assert evidence.stable_load is not None
    found = canary.findings(one, evidence.load, evidence.stable_load, start, evidence.now)
    if evidence.now < start + canary.SHORTEST_S:
        first = found[0]
        return [Finding(one, "level", first.form, first.context, pending=True)]
    return found


def _earlier(evidence: Evidence, before: float) -> list[float]:
    """Starts of this model's earlier releases."""
    return sorted(
        other.started_at.timestamp()
        for other in evidence.other_rollouts
        if (other.namespace, other.model) == (evidence.namespace, evidence.model)
        and other.started_at.timestamp() < before
    )


def _verdict(evidence: Evidence, findings: Sequence[Finding], found: Sequence[MetricVerdict]) -> Verdict:
    state, reason = _state(_telling(evidence, found))
    pending = [finding for finding in findings if finding.pending]
    decided = max((_decided_at(evidence, finding) for finding in pending), default=evidence.now)
    return Verdict(
        id=identity(evidence),
        environment=evidence.environment,
        team=evidence.team,
        namespace=evidence.namespace,
        model=evidence.model,
        comparison=evidence.comparison,
        state=state,
        outcome=OUTCOMES[state],
        reason=reason if reason is not None else msgspec.UNSET,
        decided_at=moment(decided) if state == "pending" else msgspec.UNSET,
        severity=evidence.severity,
        sensitivity=evidence.sensitivity,
        judged_at=moment(evidence.now),
        detector_version=__version__,
        series_digest=evidence.digest,
        rollout=evidence.rollout,
        commit=None,
        pull_request=None,
        other_rollouts=_others(evidence, findings),
        metrics=tuple(found),
    )


def _decided_at(evidence: Evidence, finding: Finding) -> float:
    wait = canary.SHORTEST_S if evidence.comparison == "canary" else finding.measured.pattern.window_s
    return (evidence.started_at or evidence.now) + wait


def _telling(evidence: Evidence, found: Sequence[MetricVerdict]) -> Sequence[MetricVerdict]:
    """Without what can say nothing: metrics that nobody ever measured, such as the GPU's of a model without
    one, and a canary's throughput. All, if all are such."""

    def tells(one: MetricVerdict) -> bool:
        ever = one.counts.history + one.counts.before + one.counts.after > 0
        return ever and not (evidence.comparison == "canary" and one.metric == "throughput")

    return [one for one in found if tells(one)] or found


def _state(found: Sequence[MetricVerdict]) -> tuple[State, Reason | None]:
    """The worst that is known. What could not be decided is not good: it is no success."""
    states = {metric.state for metric in found}
    for state in ("regressed", "pending"):
        if state in states:
            return ("regressed" if state == "regressed" else "pending"), None
    reasons = {metric.reason for metric in found if metric.state == "inconclusive"}
    for reason in _WEIGHT_OF_REASONS:
        if reason in reasons:
            return "inconclusive", reason
    return ("improved" if "improved" in states else "unchanged"), None


def _others(evidence: Evidence, findings: Sequence[Finding]) -> tuple[Rollout, ...]:
    """Rollouts within the windows that were compared."""
    low = min(finding.context.span.before for finding in findings)
    high = max(finding.context.span.end for finding in findings)
    return tuple(
        other
        for other in evidence.other_rollouts
        if low <= other.started_at.timestamp() < high and other != evidence.rollout
    )


def _asked(evidence: Evidence) -> str:
    """Gates may ask about different metrics of one canary."""
    names = ",".join(one.name for one in evidence.measured)
    return hashlib.sha256(names.encode()).hexdigest()[:6]


def identity(evidence: Evidence) -> str:
    """Names the verdict; the same for all looks at one rollout, and for a canary at the same metrics."""
    who = f"{evidence.environment}-{evidence.team}-{evidence.model}"
    rollout = evidence.rollout
    if rollout is None:
        what = f"watch-{int(evidence.now)}"
    else:
        version = rollout.hash or re.sub(r"[^a-z0-9]+", "-", rollout.version.lower()).strip("-")
        kind = f"canary-{_asked(evidence)}-" if evidence.comparison == "canary" else ""
        what = f"{kind}{version}-{int(rollout.started_at.timestamp())}"
    whole = f"{who}-{what}"
    if len(whole) <= 128:
        return whole
    return f"{whole[:111]}-{hashlib.sha256(whole.encode()).hexdigest()[:16]}"
