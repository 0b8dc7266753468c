"""``Workload``: one deployment of a model with all that its objects are made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from modelway.lower import names
from modelway.lower.forms import Forms, choose
from modelway.lower.objects import Json, metadata
from modelway.lower.transitions import Standing, replicas
from modelway.resolve import Deployed, Place, Resolved, watched_by
from modelway.spec.alert import Alert
from modelway.spec.common import milliseconds
from modelway.spec.environment import Environment, EnvironmentSpec
from modelway.spec.model import Model, ModelSpec
from modelway.spec.resource import Resource, ResourceSpec

# Upper bounds of the latency histogram; SLO thresholds and gates are added to them.
DEFAULT_BUCKETS_MS = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10000)


@dataclass(frozen=True, slots=True)
class Workload:
    """A deployment: ``name`` is that of its objects, ``model`` what it serves."""

    name: str
    model: Model
    resource: Resource
    environment: Environment
    forms: Forms
    buckets_ms: tuple[int, ...]
    standby: Model | None
    """Answers when this one cannot; deployed as ``<name>-standby``."""
    primary: str | None
    """Name of the deployment that this one is the standby of."""
    labels: dict[str, str]
    """On each of its objects and pods."""
    judged: tuple[str, ...]
    """Names of the patterns that its gates ask the detector about."""
    replicas: int
    """The count that Git states (``transitions.py``)."""

    @property
    def spec(self) -> ModelSpec:
        return self.model.spec

    @property
    def size(self) -> ResourceSpec:
        return self.resource.spec

    @property
    def place(self) -> EnvironmentSpec:
        return self.environment.spec

    @property
    def team(self) -> str:
        return self.model.metadata.team

    @property
    def namespace(self) -> str:
        return names.namespace(self.team, self.environment.metadata.name)

    @property
    def folder(self) -> str:
        return f"{self.team}/{self.model.metadata.name}"

    @property
    def origin(self) -> str:
        return f"Model {self.team}/{self.model.metadata.name}"

    @property
    def gpus(self) -> int:
        return self.size.gpu.count if self.size.gpu else 0

    @property
    def selector(self) -> dict[str, str]:
        return {names.NAME: self.name}

    def meta(self, name: str, wave: str, annotations: Mapping[str, str] | None = None) -> Json:
        """Metadata of one of the deployment's objects."""
        return metadata(name, self.namespace, self.labels, self.origin, wave, annotations)


def workload(
    one: Deployed,
    place: Place,
    buckets: Mapping[str, tuple[int, ...]],
    judged: Mapping[str, tuple[str, ...]],
    standing: Standing,
) -> Workload:
    """The deployment in its environment; its resource is known to exist."""
    model = one.model.spec
    resource = place.resources[model.spec.serving.resource].spec
    primary = one.primary.spec.metadata.name if one.primary else None
    bounds = _bounds(one.model, buckets)
    if one.standby and place.environment.spec.spec.cluster is None:  # one process serves both
        bounds = tuple(sorted({*bounds, *_bounds(one.standby, buckets)}))
    return Workload(
        name=one.name,
        model=model,
        resource=resource,
        environment=place.environment.spec,
        forms=choose(one, place.environment),
        buckets_ms=bounds,
        standby=one.standby.spec if one.standby else None,
        primary=primary,
        labels={
            **resource.metadata.labels,
            **model.metadata.labels,
            # Ours win over those of the specs, so that selectors and rules hold.
            names.NAME: one.name,
            names.VERSION: model.spec.version,
            names.COMPONENT: names.STANDBY if primary else "server",
            names.PART_OF: primary or one.name,
            names.MANAGED_BY: "modelway",
            names.TEAM: model.metadata.team,
            names.ENVIRONMENT: place.name,
        },
        judged=judged.get(one.model.key, ()) if one.primary is None else (),
        replicas=replicas(one, place, standing),
    )


def _bounds(model: Resolved[Model], buckets: Mapping[str, tuple[int, ...]]) -> tuple[int, ...]:
    return buckets.get(model.key, ()) or bucket_bounds(gate_bounds(model.spec))


def latency_bounds(place: Place) -> dict[str, tuple[int, ...]]:
    """Buckets by model, for every model that an alert watches."""
    asked: dict[str, list[int]] = {}
    for alert in place.alerts.values():
        bounds = alert_bounds(alert.spec)
        for model in watched_by(alert.spec, place.models) if bounds else ():
            asked.setdefault(model.key, gate_bounds(model.spec)).extend(bounds)
    return {key: bucket_bounds(bounds) for key, bounds in asked.items()}


def alert_bounds(alert: Alert) -> list[int]:
    """Thresholds of an alert on times, in milliseconds; all histograms of time share one set of bounds."""
    objectives, limits = alert.spec.objectives, alert.spec.thresholds
    found = [objectives.latency.threshold] if objectives.latency else []
    found += [limit.above for limit in (limits.latency, limits.queue_time) if limit]
    return [milliseconds(bound) for bound in found]


def gate_bounds(model: Model) -> list[int]:
    gates = model.spec.rollout.gates
    return [milliseconds(gate.max) for gate in (gates.latency, gates.queue_time) if gate]


def bucket_bounds(asked: Sequence[int]) -> tuple[int, ...]:
    """The default bounds, every asked one, and one above it.

    A quantile taken from a histogram never exceeds its highest finite bound: a threshold that is
    itself the highest could not be exceeded, and its alert or gate would hold whatever happened.
    """
    bounds = {*DEFAULT_BUCKETS_MS, *(bound for bound in asked if bound)}
    if asked and max(asked) >= DEFAULT_BUCKETS_MS[-1]:
        bounds.add(2 * max(asked))
    return tuple(sorted(bounds))
