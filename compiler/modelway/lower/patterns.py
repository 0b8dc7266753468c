"""Verdicts of the detector as alerts: what a pattern found, told to those whom the Alert tells."""

from __future__ import annotations

from modelway.lower import names
from modelway.lower.promql import quote
from modelway.lower.watched import Rule, Scope
from modelway.naming import DETECTOR_TEAM

WINDOW = "30m"


def regression_rules(scope: Scope) -> list[Rule]:
    """One for each watched model. The series are the detector's, so the rule names whom they are about.

    A counter that appears with its first verdict has not risen for Prometheus: it counts as new where it
    was not there a window before.
    """
    if not scope.spec.patterns or not scope.spec.response.notify:
        return []
    home = names.namespace(DETECTOR_TEAM, scope.environment)
    rules = []
    for namespace, model in scope.deployments:
        count = (
            f"{names.VERDICTS}{{namespace={quote(home)},{scope.workload_label}={quote(names.DETECTOR)},"
            f'model={quote(model)},state="regressed"}}'
        )
        expr = f"sum(increase({count}[{WINDOW}]) > 0\nor ({count} > 0 unless {count} offset {WINDOW}))"
        labels = {"severity": scope.spec.severity, "slo": "patterns", "window": WINDOW}
        rules.append(
            scope.rule(
                names.REGRESSED,
                expr,
                {**labels, "namespace": namespace, "model": model},
                f"{model} has become worse",
                f"The detector found that {model} in {namespace} has become worse; the verdict is on the "
                "pull request that brought the change.",
            )
        )
    return rules
