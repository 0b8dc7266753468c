"""A verdict: ``policies/schemas/verdict-v1.json`` as values.

What one field means is said in the schema. Effects are relative, as a share of the value before (0.05
is 5 %); times are aware datetimes in UTC.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, TypeAlias

import msgspec

from modelway_runtime.detection.settings import MetricName, Sensitivity, Severity

State: TypeAlias = Literal["regressed", "improved", "unchanged", "pending", "inconclusive"]
Outcome: TypeAlias = Literal["success", "failure", "inconclusive"]
Reason: TypeAlias = Literal[
    "no_data",
    "history_too_short",
    "load_outside_history",
    "too_many_gaps",
    "too_few_pods",
    "buckets_changed",
]
Test: TypeAlias = Literal["level", "spread", "distribution"]
Comparison: TypeAlias = Literal["release", "canary", "watch"]
Unit: TypeAlias = Literal["s", "1/s", "bytes", "ratio", "1"]

OUTCOMES: dict[State, Outcome] = {
    "regressed": "failure",
    "improved": "success",
    "unchanged": "success",
    "pending": "inconclusive",
    "inconclusive": "inconclusive",
}
UNITS: dict[MetricName, Unit] = {
    "latency": "s",
    "queue_time": "s",
    "compute_time": "s",
    "throughput": "1/s",
    "error_ratio": "ratio",
    "memory": "bytes",
    "gpu_memory": "bytes",
    "gpu_utilization": "ratio",
    "output_value": "1",
}


class Value(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A mapping of the verdict."""


class Rollout(Value, frozen=True, kw_only=True):
    """A version of a model that starts to run. ``hash`` is null where the scrape gives no label for it."""

    namespace: str
    model: str
    version: str
    hash: str | None
    previous_hash: str | None
    started_at: datetime


class Commit(Value, frozen=True, kw_only=True):
    sha: str
    found_by: Literal["argocd", "history"]


class PullRequest(Value, frozen=True, kw_only=True):
    number: int
    url: str


class Effect(Value, frozen=True, kw_only=True):
    absolute: float
    relative: float | None
    low: float | None
    high: float | None
    confidence: float


class Window(Value, frozen=True, kw_only=True):
    start: datetime
    end: datetime


class Windows(Value, frozen=True, kw_only=True):
    history: Window | None
    before: Window
    after: Window


class Counts(Value, frozen=True, kw_only=True):
    history: int
    before: int
    after: int


class Pods(Value, frozen=True, kw_only=True):
    """How many pods a canary was compared by, and how much the stable ones differ: the standard deviation of
    one pod, relative to their mean."""

    stable: int
    canary: int
    spread: float | None


class BucketRange(Value, frozen=True, kw_only=True):
    """The bounds of a histogram that a value is between; null is no bound."""

    low: float | None
    high: float | None


class Resolved(Value, frozen=True, kw_only=True):
    """What is known of the two values that were read from histograms."""

    before: BucketRange
    after: BucketRange


class MetricVerdict(Value, frozen=True, kw_only=True):
    """What was found for one metric by one test."""

    name: str
    metric: MetricName
    quantile: float | None
    unit: Unit
    test: Test
    state: State
    reason: Reason | msgspec.UnsetType = msgspec.UNSET
    before: float | None
    after: float | None
    effect: Effect | None
    p: float | None
    smallest_effect: float | None
    threshold: float | None
    windows: Windows
    counts: Counts
    missing_ratio: float
    load_change: float | None
    change_points: tuple[datetime, ...]
    queries: tuple[str, ...]
    sparkline: str
    pods: Pods | msgspec.UnsetType = msgspec.UNSET
    buckets: Resolved | msgspec.UnsetType = msgspec.UNSET


class Verdict(Value, frozen=True, kw_only=True):
    """What the detector found for one model; the same evidence gives the same verdict."""

    schema: Literal[1] = 1
    id: str
    environment: str
    team: str
    namespace: str
    model: str
    comparison: Comparison
    state: State
    outcome: Outcome
    reason: Reason | msgspec.UnsetType = msgspec.UNSET
    decided_at: datetime | msgspec.UnsetType = msgspec.UNSET
    severity: Severity
    sensitivity: Sensitivity
    judged_at: datetime
    detector_version: str
    series_digest: str
    rollout: Rollout | None
    commit: Commit | None
    pull_request: PullRequest | None
    other_rollouts: tuple[Rollout, ...]
    metrics: tuple[MetricVerdict, ...]


class WrongVerdict(Exception):
    """A document that is no verdict; the text names the field."""


def to_json(verdict: Verdict) -> bytes:
    """The verdict as an indented JSON document that ends in a newline."""
    return msgspec.json.format(msgspec.json.encode(verdict), indent=2) + b"\n"


def from_json(text: bytes) -> Verdict:
    """Raises WrongVerdict, with the field that is wrong."""
    try:
        return msgspec.json.decode(text, type=Verdict)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise WrongVerdict(str(error)) from None


def moment(unix_s: float) -> datetime:
    """A Unix time in seconds as the schema writes it: whole seconds, UTC."""
    return datetime.fromtimestamp(int(unix_s), UTC)
