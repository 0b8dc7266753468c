"""Evidence for the judge, and what every verdict must hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np

from modelway_runtime.detection.evidence import Array, Buckets, Evidence, Measured, Pod, Series
from modelway_runtime.detection.judge import judge
from modelway_runtime.detection.judgement import Judgement
from modelway_runtime.detection.settings import TIMES, Pattern
from modelway_runtime.detection.verdict import OUTCOMES, MetricVerdict, Rollout, Verdict, moment, to_json
from tests.support.metric_series import MINUTE, START

SCHEMA = Path(__file__).parents[4] / "policies" / "schemas" / "verdict-v1.json"


def pattern(metric: str = "latency", **changes: Any) -> Pattern:
    """As the compiler's defaults have it."""
    values: dict[str, Any] = {
        "metric": metric,
        "quantile": 0.95 if metric in TIMES else None,
        "worse": {"throughput": "down", "output_value": "both"}.get(metric, "up"),
        "minimum_effect": 0.2 if metric == "error_ratio" else 0.05,
        "window_s": 3600.0,
        "sensitivity": "normal",
    }
    return Pattern(**{**values, **changes})


def rollout(minute: float, version: str = "2.0.0", model: str = "ranker") -> Rollout:
    return Rollout(
        namespace="search-prod",
        model=model,
        version=version,
        hash=None,
        previous_hash=None,
        started_at=moment(START + MINUTE * minute),
    )


def series(values: Array) -> Series:
    return Series(START, MINUTE, np.asarray(values, np.float64))


def buckets(counts: Array, bounds: Array) -> Buckets:
    return Buckets(START, MINUTE, np.asarray(bounds, np.float64), np.asarray(counts, np.float64))


def measured(values: Array, metric: str = "latency", name: str = "", **changes: Any) -> Measured:
    """``pods`` and ``stable_pods`` only where they are given: ``canary_evidence`` makes them."""
    keys = ("buckets", "stable_buckets", "stable", "pods", "stable_pods", "resolution", "stable_resolution")
    fields = {key: changes.pop(key) for key in keys if key in changes}
    return Measured(name or metric.replace("_", "-"), pattern(metric, **changes), series(values), **fields)


def evidence(
    load: Array,
    metrics: Sequence[Measured] | Mapping[str, Array],
    at: float | None,
    now: float | None = None,
    others: Sequence[Rollout] = (),
    **changes: Any,
) -> Evidence:
    """A release ``at`` a minute (None: a watch), judged at the minute ``now``: when the first metric's window
    is over, unless said."""
    ones = (
        tuple(metrics)
        if not isinstance(metrics, Mapping)
        else tuple(measured(values, metric) for metric, values in metrics.items())
    )
    if now is None:
        now = len(load) if at is None else at + ones[0].pattern.window_s / MINUTE
    values: dict[str, Any] = {
        "environment": "prod",
        "team": "search",
        "namespace": "search-prod",
        "model": "ranker",
        "severity": "warning",
        "comparison": "watch" if at is None else "release",
        "sensitivity": "normal",
        "now": START + MINUTE * now,
        "rollout": None if at is None else rollout(at),
        "other_rollouts": tuple(others),
        "load": series(load),
        "measured": ones,
    }
    return Evidence(**{**values, **changes})


def canary_evidence(
    loads: tuple[Array, Array], metrics: Sequence[Measured], at: float, now: float, **changes: Any
) -> Evidence:
    """``loads`` and series: of the canary, and of the stable version. A metric without pods gets one of the
    canary and ``ALIKE`` stable ones that do not differ at all."""
    changes = {"comparison": "canary", "stable_load": series(loads[1]), **changes}
    return evidence(loads[0], [_with_pods(one, loads) for one in metrics], at, now, **changes)


ALIKE = 8


def _with_pods(one: Measured, loads: tuple[Array, Array]) -> Measured:
    if one.pods or one.stable_pods or one.stable is None:
        return one
    pod = Pod("canary", series(loads[0]), one.series, one.buckets)
    same = [Pod(f"stable-{k}", series(loads[1]), one.stable, one.stable_buckets) for k in range(ALIKE)]
    return replace(one, pods=(pod,), stable_pods=tuple(same))


@cache
def _validator() -> jsonschema.Draft202012Validator:
    schema = json.loads(SCHEMA.read_bytes())
    return jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())


def judged(given: Evidence) -> Judgement:
    """The judgement, after it was held against the schema and what it says of itself."""
    judgement = judge(given)
    verdict = judgement.verdict
    _validator().validate(json.loads(to_json(verdict)))
    assert verdict.outcome == OUTCOMES[verdict.state]
    for metric in verdict.metrics:
        _consistent(metric)
    for plot in judgement.plots:
        lengths = {len(part) for part in (plot.times, plot.values, plot.expected, plot.low, plot.high)}
        assert len(lengths) == 1
    return judgement


def _consistent(metric: MetricVerdict) -> None:
    if metric.threshold is not None and metric.smallest_effect is not None:
        assert metric.threshold <= metric.smallest_effect
    effect = metric.effect
    if effect is not None and None not in (effect.low, effect.relative, effect.high):
        assert effect.low <= effect.relative <= effect.high  # type: ignore[operator]
    if metric.state in ("regressed", "improved"):
        assert metric.p is not None
        assert metric.p < 0.05
    assert metric.state == "pending" or metric.windows.before.end <= metric.windows.after.end


def verdict_of(given: Evidence) -> Verdict:
    return judged(given).verdict


def by_test(verdict: Verdict) -> dict[tuple[str, str], MetricVerdict]:
    return {(metric.name, metric.test): metric for metric in verdict.metrics}
