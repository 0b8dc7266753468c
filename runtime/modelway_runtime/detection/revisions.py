"""Which pods are the canary: what a gate is told, held to what the series show.

Who asks names two pod template hashes. Were they believed, one who swaps them would have a good release
called regressed. So the canary is the revision that began last, and the stable pods are of one that began
before it and still runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from modelway_runtime.detection.history import STEP_S, NothingSeen
from modelway_runtime.detection.starts import GAP_S, Run, began

SLACK_S = 300.0
"""A start that is told may differ so much from the first sample of the pods."""


def find_canary(
    model: Sequence[Run], canary: str, stable: str, now: float, started_at: float | None = None
) -> Run:
    """The canary's run, of all runs of its model up to ``now`` (Unix seconds).

    Raises NothingSeen where the series do not show the canary beside these stable pods.
    """
    ours, theirs = began(model, canary), began(model, stable)
    if ours is None:
        raise NothingSeen("the canary's pods have no sample yet")
    if theirs is None:
        raise NothingSeen("the stable pods have no sample")
    newer = [run for run in _beginnings(model) if run.first > ours.first]
    if newer:
        raise NothingSeen(
            f"the pods {canary} are no canary: {newer[-1].hash or newer[-1].version} began after them, at "
            f"{_time(newer[-1].first)}"
        )
    if theirs.first >= ours.first:
        raise NothingSeen(f"the pods {stable} are not the stable ones: they began no earlier than the canary")
    last = max(run.last for run in model if run.hash == stable)
    if last < now - GAP_S:
        raise NothingSeen(f"the pods {stable} are not the stable ones: they have not run since {_time(last)}")
    if started_at is not None and abs(started_at - ours.first) > SLACK_S:
        raise NothingSeen(
            f"the canary began at {_time(ours.first)} by its first sample, not at {_time(started_at)}"
        )
    return ours


def _beginnings(model: Sequence[Run]) -> list[Run]:
    """Of each revision the run with which it began; the earliest first."""
    hashes = {run.hash for run in model if run.hash is not None}
    begun = [run for pod_hash in hashes if (run := began(model, pod_hash))]
    return sorted(begun, key=lambda run: run.first)


def _time(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds // STEP_S * STEP_S, UTC):%Y-%m-%dT%H:%MZ}"
