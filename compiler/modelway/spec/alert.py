"""``Alert``: what a model promises, and who is told when it does not hold."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from modelway.spec.common import (
    NOT_IN_URI,
    Duration,
    LabelKey,
    LabelValue,
    Name,
    PositiveDuration,
    Reference,
    RoutingLabel,
    Targets,
    Team,
    Text,
    Value,
    doc,
)
from modelway.spec.model import Ratio

Severity = Literal["critical", "warning", "info"]


class Target(Value, frozen=True, kw_only=True):
    """The models that an alert watches: one by name, or those of the team with all the labels."""

    model: Annotated[Reference | None, doc("A Model, as name or team/name.", "ranker")] = None
    labels: Annotated[
        dict[LabelKey, LabelValue], doc("Labels that a Model of the team has.", {"tier": "critical"})
    ] = {}


class Availability(Value, frozen=True, kw_only=True):
    """Share of requests that are answered (neither 5xx nor 429)."""

    target: Annotated[float, msgspec.Meta(ge=50, lt=100), doc("Percent of requests.", 99.9)]


class Latency(Value, frozen=True, kw_only=True):
    """Share of requests that are answered within a time."""

    target: Annotated[float, msgspec.Meta(ge=50, lt=100), doc("Percent of requests.", 99)]
    threshold: Annotated[PositiveDuration, doc("The time; it becomes a bucket of the histogram.", "250ms")]


class Objectives(Value, frozen=True, kw_only=True):
    """Service level objectives over the period, each with burn-rate alerts."""

    availability: Annotated[Availability | None, doc("Availability.", {"target": 99.9})] = None
    latency: Annotated[Latency | None, doc("Latency.", {"target": 99, "threshold": "250ms"})] = None


class Threshold(Value, frozen=True, kw_only=True):
    """What every threshold says: how long it must hold, and how bad it is."""

    window: Annotated[PositiveDuration, doc("Window over which the value is taken.", "15m")] = "5m"
    for_: Annotated[Duration, doc("How long it must hold.", "20m")] = msgspec.field(default="10m", name="for")
    severity: Annotated[Severity | None, doc("Severity; that of the alert when left out.", "info")] = None


class TimeThreshold(Threshold, frozen=True, kw_only=True):
    """A quantile of a time."""

    quantile: Annotated[Ratio, doc("The quantile.", 0.95)] = 0.99
    above: Annotated[PositiveDuration, doc("Fires above this time.", "400ms")]


class RatioThreshold(Threshold, frozen=True, kw_only=True):
    """A share between 0 and 1."""

    above: Annotated[Ratio, doc("Fires above this share.", 0.9)]


class RateThreshold(Threshold, frozen=True, kw_only=True):
    """Requests per second."""

    below: Annotated[float, msgspec.Meta(gt=0), doc("Fires below this rate.", 0.5)]


class Thresholds(Value, frozen=True, kw_only=True):
    """Fixed limits; leave out what does not matter."""

    latency: Annotated[TimeThreshold | None, doc("Time of requests.", {"above": "400ms"})] = None
    queue_time: Annotated[TimeThreshold | None, doc("Wait for a batch.", {"above": "80ms"})] = None
    error_ratio: Annotated[RatioThreshold | None, doc("Requests that fail (5xx, 429).", {"above": 0.05})] = (
        None
    )
    memory: Annotated[RatioThreshold | None, doc("Memory of the limit.", {"above": 0.9})] = None
    gpu_utilization: Annotated[RatioThreshold | None, doc("Use of the GPUs.", {"above": 0.95})] = None
    gpu_memory: Annotated[RatioThreshold | None, doc("Memory of the GPUs in use.", {"above": 0.95})] = None
    throughput: Annotated[RateThreshold | None, doc("Requests per second.", {"below": 0.5})] = None


class Absence(Value, frozen=True, kw_only=True):
    """No server of the model can be scraped."""

    for_: Annotated[PositiveDuration, doc("How long none was seen.", "5m")] = msgspec.field(
        default="10m", name="for"
    )
    severity: Annotated[Severity, doc("Severity.", "warning")] = "critical"


class Pattern(Value, frozen=True, kw_only=True):
    """A change that the detector looks for, whatever the value was before."""

    metric: Annotated[
        Literal[
            "latency", "queueTime", "computeTime", "throughput", "errorRatio", "memory", "gpuMemory",
            "gpuUtilization", "outputValue",
        ],
        doc("What is judged.", "latency"),
    ]  # fmt: skip
    quantile: Annotated[
        Ratio | None, doc("The quantile of a time (latency, queueTime, computeTime); 0.99 if left out.", 0.9)
    ] = None
    worse: Annotated[
        Literal["up", "down", "both"] | None,
        doc(
            "Which way is worse; when left out, down for throughput, both for outputValue, up for all else.",
            "both",
        ),
    ] = None
    minimum_effect: Annotated[
        Annotated[float, msgspec.Meta(gt=0, le=100)] | None,
        doc(
            "Smallest change that matters, as a share of the value before; when left out, 0.2 for errorRatio "
            "and outputValue, 0.05 for all else.",
            0.1,
        ),
    ] = None
    window: Annotated[PositiveDuration, doc("Time after a release that is judged.", "30m")] = "1h"
    sensitivity: Annotated[
        Literal["normal", "low"], doc("How strict comments are; a gate is always low.", "low")
    ] = "normal"


class Response(Value, frozen=True, kw_only=True):
    """What follows when a pattern finds that a release made the model worse."""

    notify: Annotated[bool, doc("The verdict is published, and an alert fires.", False)] = True
    restart: Annotated[bool, doc("The model's pods are restarted, once for a release.", True)] = False
    failover: Annotated[bool, doc("A pull request that lets the standby answer.", True)] = False
    rollback: Annotated[bool, doc("A pull request that takes the release back.", True)] = False


class AlertSpec(Value, frozen=True, kw_only=True):
    """What to watch, and whom to tell."""

    targets: Targets = ()
    target: Annotated[Target, doc("The models it watches.", {"model": "ranker"})]
    period: Annotated[Literal["28d", "30d"], doc("Period of the objectives.", "28d")] = "30d"
    objectives: Annotated[
        Objectives, doc("Service level objectives.", {"availability": {"target": 99.9}})
    ] = Objectives()
    min_rate: Annotated[
        float,
        msgspec.Meta(ge=0),
        doc("Requests per second below which objectives and ratios stay silent.", 1),
    ] = 0.05
    thresholds: Annotated[Thresholds, doc("Fixed limits.", {"latency": {"above": "400ms"}})] = Thresholds()
    absence: Annotated[Absence | None, doc("Alert when no server is seen.", {"for": "5m"})] = None
    patterns: Annotated[
        dict[Name, Pattern],
        msgspec.Meta(max_length=32),
        doc("Changes that the environment's detector looks for, by name.", {"slower": {"metric": "latency"}}),
    ] = {}
    response: Annotated[
        Response, doc("What follows when a pattern finds a regression.", {"rollback": True})
    ] = Response()
    severity: Annotated[Severity, doc("Severity of thresholds and patterns.", "critical")] = "warning"
    labels: Annotated[
        dict[RoutingLabel, LabelValue],
        doc("Labels of the alerts, for routing.", {"channel": "search-oncall"}),
    ] = {}
    runbook: Annotated[
        Annotated[
            str,
            msgspec.Meta(
                pattern=rf"^https?://(?![^/]*@)[^{NOT_IN_URI}]+$",
                max_length=2048,
                title="an http(s) URL without user or password",
            ),
        ]
        | None,
        doc("Page that says what to do.", "https://runbooks.shop.example/ranker"),
    ] = None
    summary: Annotated[Text, doc("A sentence for the people who are told.", "Search ranks too slowly.")] = ""


class Alert(Value, frozen=True, kw_only=True):
    """What a model promises."""

    metadata: Team
    spec: AlertSpec
