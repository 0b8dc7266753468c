"""An ``Alert`` in an environment -> the groups of a Prometheus rules file or of a PrometheusRule."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from modelway.lower import names, patterns, slo
from modelway.lower.thresholds import absence_rules, threshold_rules
from modelway.lower.watched import Rule, Scope, Watched
from modelway.spec.alert import Alert
from modelway.spec.environment import Monitoring

__all__ = ["Watched", "rule_groups"]


def rule_groups(
    alert: Alert,
    watched: Sequence[Watched],
    environment: str,
    monitoring: Monitoring,
    *,
    looks: bool = False,
    workload_label: str = names.JOB,
) -> list[dict[str, Any]]:
    """The rules of the alert, as plain values in a fixed order; none where it watches nothing.

    ``workload_label``: of series, the one with the name of the workload (see ``scraping``).
    ``looks``: a detector looks for the patterns, so that there are verdicts to be told of.

    Every alert has the labels namespace, model and slo, so that Alertmanager may inhibit by them: a label
    that is missing on both sides counts as equal and would mute what it should not.
    """
    if not watched:
        return []
    scope = Scope(alert, watched, environment, monitoring, workload_label)
    objectives = alert.spec.objectives
    groups: list[dict[str, Any]] = []
    if objectives.availability is not None:
        rules = slo.objective_rules(scope, slo.availability(scope, objectives.availability))
        groups.append(_group(scope, "availability", rules, interval=slo.INTERVAL))
    if objectives.latency is not None:
        rules = slo.objective_rules(scope, slo.latency(scope, objectives.latency))
        groups.append(_group(scope, "latency", rules, interval=slo.INTERVAL))
    found = patterns.regression_rules(scope) if looks else []
    for name, rules in (
        ("thresholds", threshold_rules(scope)),
        ("absence", absence_rules(scope)),
        ("patterns", found),
    ):
        if rules:
            groups.append(_group(scope, name, rules))
    return groups


def _group(scope: Scope, name: str, rules: list[Rule], **settings: str) -> dict[str, Any]:
    return {"name": f"{scope.name}-{name}", **settings, "rules": rules}
