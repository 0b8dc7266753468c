"""What the detector of an environment watches: the patterns of all Alerts by model, and checks of them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from modelway.diagnostics import Diagnostic, diagnostic
from modelway.resolve import Catalog, Deployed, Place, Resolved, deployed, standby_of, watched_by
from modelway.spec.alert import Alert, Pattern, Response, Severity
from modelway.spec.common import milliseconds
from modelway.spec.detector import Detector
from modelway.spec.model import Model

TIMES = ("latency", "queueTime", "computeTime")
RESPONSES = ("notify", "restart", "failover", "rollback")
SEVERITIES: tuple[Severity, ...] = ("critical", "warning", "info")
"""The worst first."""
NEVER = "never"

_SHORTEST = "10m"  # two bins of the detector: a first and a second half
_HISTORY = "9d"  # with less a verdict is mostly inconclusive: the same hour of a week ago is missing


@dataclass(frozen=True, slots=True)
class WatchedModel:
    """A model with the patterns of all Alerts on it; ``deployment`` is the one that is watched."""

    deployment: Deployed
    patterns: dict[str, Pattern]
    severity: Severity
    response: tuple[str, ...]

    @property
    def model(self) -> Resolved[Model]:
        return self.deployment.model


def watched_models(place: Place) -> list[WatchedModel]:
    """By team and model; none without a detector. A standby of several is watched where it comes first."""
    if place.environment.spec.spec.detector is None:
        return []
    alerts: dict[str, list[Alert]] = {}
    for alert in place.alerts.values():
        for model in watched_by(alert.spec, place.models) if alert.spec.spec.patterns else ():
            alerts.setdefault(model.key, []).append(alert.spec)
    first: dict[str, Deployed] = {}
    for one in deployed(place) if alerts else ():
        first.setdefault(one.model.key, one)
    return [_watched(first[key], alerts[key]) for key in sorted(alerts)]


def judged_patterns(place: Place) -> dict[str, tuple[str, ...]]:
    """What a canary's gate asks the detector about: the names of the patterns by model.

    Not about throughput: how many requests a canary gets is the weight of its step.
    """
    spec = place.environment.spec.spec
    if spec.cluster is None or spec.detector is None or spec.detector.gate is None:
        return {}
    return {
        one.model.key: tuple(name for name, each in one.patterns.items() if each.metric != "throughput")
        for one in watched_models(place)
    }


def _watched(deployment: Deployed, alerts: list[Alert]) -> WatchedModel:
    patterns = {name: one for alert in alerts for name, one in alert.spec.patterns.items()}
    responses = {name for alert in alerts for name in wanted(alert.spec.response)}
    return WatchedModel(
        deployment,
        dict(sorted(patterns.items())),
        min((alert.spec.severity for alert in alerts), key=SEVERITIES.index),
        tuple(name for name in RESPONSES if name in responses),
    )


def wanted(response: Response) -> list[str]:
    """The names of the responses that are switched on."""
    return [name for name in RESPONSES if getattr(response, name)]


# Checks


def _patterns(place: Place, _: Catalog) -> Iterator[Diagnostic]:
    retention = place.environment.spec.spec.monitoring.retention
    for alert in place.alerts.values():
        for name, pattern in alert.spec.spec.patterns.items():
            at = ("spec", "patterns", name)
            if pattern.quantile is not None and pattern.metric not in TIMES:
                text = f"{pattern.metric} has no quantiles"
                hint = f"leave it out; it is for {', '.join(TIMES)}"
                yield diagnostic("MW212", alert.span(*at, "quantile"), text, hint)
            for wrong, limit in (
                (milliseconds(pattern.window) < milliseconds(_SHORTEST), f"shorter than {_SHORTEST}"),
                (milliseconds(pattern.window) > milliseconds(retention), f"longer than {retention} is kept"),
            ):
                if wrong:
                    text = f"a window of {pattern.window} is {limit}"
                    yield diagnostic("MW210", alert.span(*at, "window"), text, "an hour suits most models")


def _responses(place: Place, _: Catalog) -> Iterator[Diagnostic]:
    for alert in place.alerts.values():
        response, at = alert.spec.spec.response, ("spec", "response")
        if not alert.spec.spec.patterns and response != Response():
            text = "a response follows a pattern, and there is none"
            yield diagnostic("MW219", alert.key_span(*at), text, "add patterns, or leave it out")
        elif not wanted(response):
            text = "nothing at all would follow a regression"
            yield diagnostic("MW219", alert.key_span(*at), text, "leave notify on, or leave the patterns out")
        elif place.environment.spec.spec.detector is not None:
            yield from _means(alert, place)


def _means(alert: Resolved[Alert], place: Place) -> Iterator[Diagnostic]:
    """Whether the environment can do what is to follow."""
    response, environment = alert.spec.spec.response, place.environment.spec.spec
    detector = environment.detector
    if response.restart and environment.cluster is None:
        text = f'"{place.name}" has no cluster in which anything could be restarted'
        hint = "switch it off in this environment's overlay"
        yield diagnostic("MW219", alert.span("spec", "response", "restart"), text, hint)
    for name, on in (("failover", response.failover), ("rollback", response.rollback)):
        if on and (detector is None or detector.publish is None):
            text = f'{name} is a pull request, and the detector of "{place.name}" has no repository for it'
            hint = "add detector.publish to the environment, or switch it off in its overlay"
            yield diagnostic("MW219", alert.span("spec", "response", name), text, hint)
    for model in watched_by(alert.spec, place.models) if response.failover else ():
        if standby_of(model) is None:
            text = f'"{model.key}" has no standby to fail over to'
            related = ((model.key_span("spec", "serving"), "the model is here"),)
            hint = "give it a standby, or switch failover off"
            yield diagnostic("MW219", alert.span("spec", "response", "failover"), text, hint, related)


def _same_names(place: Place, _: Catalog) -> Iterator[Diagnostic]:
    """A verdict and a gate know a pattern by its name alone."""
    first: dict[tuple[str, str], Resolved[Alert]] = {}
    for alert in place.alerts.values():
        patterns = alert.spec.spec.patterns
        for model in watched_by(alert.spec, place.models) if patterns else ():
            for name, pattern in patterns.items():
                other = first.setdefault((model.key, name), alert)
                if other.spec.spec.patterns[name] != pattern:
                    at = ("spec", "patterns", name)
                    text = f'"{other.key}" gives the name "{name}" to another pattern of "{model.key}"'
                    related = ((other.key_span(*at), "it is here"),)
                    yield diagnostic("MW220", alert.key_span(*at), text, "rename one of the two", related)


def _detector(place: Place, _: Catalog) -> Iterator[Diagnostic]:
    environment = place.environment
    detector = environment.spec.spec.detector
    if detector is None:
        yield from _nobody_looks(place)
        return
    at = ("spec", "detector")
    if detector.schedule == NEVER and detector.gate is None:
        text = "the detector never looks, and nobody can ask it"
        yield diagnostic("MW212", environment.span(*at, "schedule"), text, "give it a schedule or a gate")
    elif wrong := _no_cron(detector):
        span = environment.span(*at, "schedule")
        yield diagnostic("MW108", span, wrong, "minute, hour, day, month, weekday, as in */10 * * * *")
    retention = environment.spec.spec.monitoring.retention
    if not any(alert.spec.spec.patterns for alert in place.alerts.values()):
        text = f'no alert in "{place.name}" has patterns: no detector is deployed'
        hint = "add patterns to an Alert that is for it, or leave the detector out"
        yield diagnostic("MW412", environment.key_span(*at), text, hint)
    elif milliseconds(retention) < milliseconds(_HISTORY):
        text = f"of {retention} of history most verdicts are inconclusive; it takes {_HISTORY} to know a week"
        span = environment.span("spec", "monitoring", "retention")
        yield diagnostic("MW221", span, text, "let Prometheus keep 14d")


def _seen_once(place: Place, _: Catalog) -> Iterator[Diagnostic]:
    """A standby of several runs several times, and a verdict is of one."""
    runs: dict[str, list[str]] = {}
    if place.environment.spec.spec.detector is not None:
        for one in deployed(place):
            runs.setdefault(one.model.key, []).append(one.name)
    for alert in place.alerts.values():
        for model in watched_by(alert.spec, place.models) if alert.spec.spec.patterns else ():
            first, *others = runs.get(model.key, [""])
            if others:
                text = f'"{model.key}" is watched as "{first}" alone, not as {", ".join(others)}'
                hint = "watch the models that it stands by for instead"
                yield diagnostic("MW411", alert.key_span("spec", "patterns"), text, hint)


def _nobody_looks(place: Place) -> Iterator[Diagnostic]:
    for alert in place.alerts.values():
        if alert.spec.spec.patterns:
            text = f'"{place.name}" has no detector: nobody looks for the patterns there'
            hint = "add detector to the environment, or delete the patterns in its overlay"
            yield diagnostic("MW411", alert.key_span("spec", "patterns"), text, hint)


_FIELDS = (("minute", 0, 59), ("hour", 0, 23), ("day", 1, 31), ("month", 1, 12), ("weekday", 0, 7))
_PART = re.compile(r"(?:\*|(\d{1,2})-(\d{1,2}))(?:/(\d{1,2}))?|(\d{1,2})")


def _no_cron(detector: Detector) -> str:
    """Why the schedule is none, or ''. Numbers, ranges, lists and steps: what every reader of cron knows."""
    if detector.schedule == NEVER:
        return ""
    for text, (name, least, most) in zip(detector.schedule.split(" "), _FIELDS, strict=True):
        for part in text.split(","):
            found = _PART.fullmatch(part)
            numbers = [int(found[i]) for i in (1, 2, 4) if found[i]] if found else []
            if not found or numbers != sorted(numbers) or (found[3] and not int(found[3])):
                return f'"{part}" is no {name}'
            if any(not least <= number <= most for number in numbers):
                return f'"{part}" is no {name}: they go from {least} to {most}'
    return ""


CHECKS: tuple[Callable[[Place, Catalog], Iterable[Diagnostic]], ...] = (
    _patterns,
    _responses,
    _same_names,
    _detector,
    _seen_once,
)
