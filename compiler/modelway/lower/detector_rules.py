"""Alerts on the detector itself: one that looks no more finds nothing, which looks like peace."""

from __future__ import annotations

from typing import Any

from modelway.emit import emit
from modelway.lower import names
from modelway.lower.promql import number, one_of, quote
from modelway.lower.watched import KEEP_FIRING, Rule
from modelway.naming import DETECTOR_TEAM
from modelway.spec.common import milliseconds
from modelway.spec.detector import Detector
from modelway.watching import NEVER, WatchedModel

_ABSENT_FOR = "10m"
_GAPS = 0.25  # an early sign: with many more the detector itself says too_many_gaps
_GAPS_FOR = "1h"


def rule_groups(
    found: Detector, wanted: list[WatchedModel], environment: str, workload_label: str
) -> list[dict[str, Any]]:
    """The rules of one environment's detector, as plain values in a fixed order."""
    home = names.namespace(DETECTOR_TEAM, environment)
    of = f"namespace={quote(home)},{workload_label}={quote(names.DETECTOR)}"
    rules = [_absent(home, environment, of)]
    if found.schedule != NEVER:
        rules += [_stale(home, environment, one, found.stale_after, of) for one in wanted]
        rules.append(_gaps(environment, wanted, of))
    return [{"name": names.DETECTOR, "rules": rules}]


def text(groups: list[dict[str, Any]]) -> str:
    """As a file of rules."""
    return emit({"groups": groups}).decode()


def _rule(alert: str, expr: str, for_: str, labels: dict[str, str], summary: str, description: str) -> Rule:
    return {
        "alert": alert,
        "expr": expr,
        "for": for_,
        "labels": labels,
        "annotations": {"summary": summary, "description": description},
    }


def _absent(home: str, environment: str, of: str) -> Rule:
    labels = {
        "severity": "warning",
        "slo": "detector",
        "window": _ABSENT_FOR,
        "namespace": home,
        "model": "all",
        "team": DETECTOR_TEAM,
        "environment": environment,
    }
    return _rule(
        names.DETECTOR_ABSENT,
        f"absent({names.UP}{{{of}}} == 1)",
        _ABSENT_FOR,
        labels,
        "The detector does not answer",
        f"Prometheus has not reached the detector in {home} for {_ABSENT_FOR}: nobody judges releases.",
    )


def _stale(home: str, environment: str, one: WatchedModel, after: str, of: str) -> Rule:
    """The half of the time in the expression, the other in ``for``: a detector that was just started, and one
    that has never succeeded, which has no series, get as long as any other."""
    model = one.model.spec.metadata
    half = milliseconds(after) // 2
    seen = f"{names.LAST_SUCCESS}{{{of},model={quote(model.name)}}}"
    labels = {
        "severity": "warning",
        "slo": "detector",
        "window": after,
        "namespace": names.namespace(model.team, environment),
        "model": model.name,
        "team": model.team,
        "environment": environment,
    }
    return _rule(
        names.DETECTOR_STALE,
        f"absent(time() - {seen} < {number(half / 1000)})",
        f"{half}ms" if half % 1000 else f"{half // 1000}s",
        labels,
        f"The detector does not look at {model.name}",
        f"The detector in {home} has not judged {model.name} for {after}.",
    )


def _gaps(environment: str, wanted: list[WatchedModel], of: str) -> Rule:
    models = one_of("model", [one.model.spec.metadata.name for one in wanted])
    missing = f"{names.MISSING_RATIO}{{{of},{models}}}"
    rule = _rule(
        names.DETECTOR_GAPS,
        f"max by (namespace, model) ({missing}) > {number(_GAPS)}",
        _GAPS_FOR,
        {
            "severity": "info",
            "slo": "detector",
            "window": _GAPS_FOR,
            "team": DETECTOR_TEAM,
            "environment": environment,
        },
        "The history of {{ $labels.model }} has gaps",
        "{{ $value | humanizePercentage }} of the samples that {{ $labels.model }} is judged by are missing.",
    )
    return {**rule, "keep_firing_for": KEEP_FIRING}
