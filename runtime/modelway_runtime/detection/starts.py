"""When what started to run: runs of revisions and rollouts, told from what was ready at each time."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np

from modelway_runtime.detection.history import STEP_S
from modelway_runtime.detection.measuring import Answer, Grid
from modelway_runtime.detection.verdict import Rollout, moment

GAP_S = 600.0
"""A revision that was away for less never stopped: scrapes fail, and pods are moved."""


class Run(NamedTuple):
    """A revision ran from ``first`` to ``last`` (Unix seconds)."""

    first: float
    last: float
    version: str
    hash: str | None

    @property
    def revision(self) -> tuple[str, str | None]:
        return self.version, self.hash


Runs: TypeAlias = Mapping[tuple[str, str], Sequence[Run]]
"""Of each (namespace, model), the earliest first."""


def runs(running: Answer, grid: Grid) -> Runs:
    """``running`` has a number where (namespace, model, version, hash) was ready and NaN elsewhere."""
    times = grid.start + STEP_S * np.arange(grid.count)
    models: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for (namespace, model, version, pod_hash), values in running.items():
        models[namespace, model] += _runs(times[~np.isnan(values)].tolist(), version, pod_hash or None)
    return {model: sorted(each, key=lambda run: run[:3]) for model, each in models.items()}


def starts(models: Runs, start: float) -> tuple[Rollout, ...]:
    """Rollouts at or after ``start``, the earliest first.

    ``models`` ran since GAP_S before ``start``, so that what already ran is known. What comes back after
    something else ran in between is a rollout again; what comes back by itself was only away (scaled to zero,
    an outage).
    """
    rollouts = [
        Rollout(
            namespace=namespace,
            model=model,
            version=run.version,
            hash=run.hash,
            previous_hash=previous.hash if previous else None,
            started_at=moment(run.first),
        )
        for (namespace, model), each in models.items()
        for run, previous in _new(each, start)
    ]
    return tuple(sorted(rollouts, key=lambda one: (one.started_at, one.namespace, one.model, one.version)))


def _runs(times: Sequence[float], version: str, pod_hash: str | None) -> Iterator[Run]:
    """Times that are less than the gap apart are one run."""
    first = 0
    for index in range(1, len(times) + 1):
        if index == len(times) or times[index] - times[index - 1] >= GAP_S:
            yield Run(times[first], times[index - 1], version, pod_hash)
            first = index


def began(model: Sequence[Run], pod_hash: str) -> Run | None:
    """The run with which the pods of a hash began: their last one that was not only away before it."""
    own = [run for run in model if run.hash == pod_hash]
    for run in reversed(own):
        if not _was_away(run, _before(model, run)):
            return run
    return own[0] if own else None


def _before(model: Sequence[Run], run: Run) -> list[Run]:
    return [other for other in model if other.first < run.first]


def _new(model: Sequence[Run], start: float) -> Iterator[tuple[Run, Run | None]]:
    """Each run that is a rollout, with the run that it replaces."""
    for run in model:
        before = _before(model, run)
        if run.first >= start and not _was_away(run, before):
            yield run, _replaced(run, before)


def _was_away(run: Run, before: Sequence[Run]) -> bool:
    last = max((other.last for other in before if other.revision == run.revision), default=None)
    return last is not None and all(
        other.last <= last + GAP_S for other in before if other.revision != run.revision
    )


def _replaced(run: Run, before: Sequence[Run]) -> Run | None:
    """What still ran then, the longest-serving first: an aborted canary may be beside the stable pods.
    Else what ran last."""
    alive = [other for other in before if other.last >= run.first - STEP_S]
    return alive[0] if alive else max(before, key=lambda other: other.last, default=None)
