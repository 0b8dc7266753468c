"""What an alert watches, and what all its rules have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from modelway.lower import names
from modelway.lower.promql import number, one_of, text_of_user
from modelway.spec.alert import Alert, AlertSpec
from modelway.spec.environment import Monitoring

Rule = dict[str, Any]

# In a template: whom the series are about.
WHO = "{{ $labels.model }} in {{ $labels.namespace }}"

# A condition that comes and goes stays one alert.
KEEP_FIRING = "5m"


@dataclass(frozen=True, slots=True)
class Watched:
    """A deployed model that an alert watches.

    ``model`` is the value of the metrics' label ``model``; ``job`` names the workload
    (``app.kubernetes.io/name``; that of a standby is ``<primary>-standby``); ``gpus`` are those of a replica.
    """

    namespace: str
    model: str
    job: str
    gpus: int


class Scope:
    """An alert in an environment: the models it watches, their selector, the labels of every rule."""

    def __init__(
        self,
        alert: Alert,
        watched: Sequence[Watched],
        environment: str,
        monitoring: Monitoring,
        workload_label: str = names.JOB,
    ) -> None:
        spec = alert.spec
        self.name = alert.metadata.name
        self.environment = environment
        self.spec: AlertSpec = spec
        self.watched = sorted(watched, key=lambda one: (one.namespace, one.model, one.job))
        self.monitoring = monitoring
        self.workload_label = workload_label
        self.least = number(spec.min_rate)
        namespaces = one_of("namespace", [one.namespace for one in watched])
        self.selector = f"{namespaces},{one_of('model', [one.model for one in watched])}"
        labels = {name: text_of_user(value) for name, value in sorted(spec.labels.items())}
        self._labels = {**labels, "team": alert.metadata.team, "environment": environment}
        self._summary = text_of_user(spec.summary)

    @cached_property
    def deployments(self) -> dict[tuple[str, str], list[Watched]]:
        """By namespace and model: a model may be deployed several times, as the standby of several."""
        found: dict[tuple[str, str], list[Watched]] = {}
        for one in self.watched:
            found.setdefault((one.namespace, one.model), []).append(one)
        return found

    def rule(
        self,
        alert: str,
        expr: str,
        labels: dict[str, str],
        summary: str,
        description: str,
        for_: str = "",
        keep_firing_for: str = KEEP_FIRING,
    ) -> Rule:
        """An alerting rule. ``labels`` hold at least severity and slo; the spec's summary replaces ours."""
        found: Rule = {"alert": alert, "expr": expr}
        if for_:
            found["for"] = for_
        if keep_firing_for:
            found["keep_firing_for"] = keep_firing_for
        found["labels"] = {**self._labels, **labels}
        annotations = {"summary": self._summary or summary, "description": description}
        if self.spec.runbook is not None:
            annotations["runbook_url"] = self.spec.runbook
        found["annotations"] = annotations
        return found
