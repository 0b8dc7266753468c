"""Looks: from a history and a time to a judgement, and from a verdict to what caused the change."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from modelway_runtime.detection import cause, release, rolling
from modelway_runtime.detection.evidence import Evidence, Measured, Series
from modelway_runtime.detection.forge import Forge
from modelway_runtime.detection.history import STEP_S, History, NothingSeen
from modelway_runtime.detection.judge import judge
from modelway_runtime.detection.judgement import Judgement
from modelway_runtime.detection.measuring import told_apart
from modelway_runtime.detection.revisions import find_canary
from modelway_runtime.detection.settings import ArgoCd, Publish, Sensitivity, Watched
from modelway_runtime.detection.starts import GAP_S, Runs, starts
from modelway_runtime.detection.verdict import Comparison, Rollout, Verdict, moment

UNKNOWN_VERSION = "unknown"
"""Of a release that no series shows."""
_RECENT_S = 2 * 86400.0
_LONGEST_CANARY_S = 86400.0
"""A canary that was paused for days is judged by its last one."""


@dataclass(frozen=True, slots=True)
class Look:
    """What was seen, and what it means."""

    evidence: Evidence
    judgement: Judgement

    @property
    def verdict(self) -> Verdict:
        return self.judgement.verdict


@dataclass(frozen=True, slots=True)
class Detector:
    """One environment. Times are Unix seconds; a look reads whole minutes. All looks raise HistoryFailed."""

    environment: str
    history: History
    history_s: float

    def rollouts(self, now: float) -> tuple[Rollout, ...]:
        """Of all models, as far back as the history goes; the earliest first."""
        end = _floor(now)
        return self.history.rollouts(end - self.history_s, end)

    def look_at_release(
        self, watched: Watched, rollout: Rollout, now: float, others: Sequence[Rollout] | None = None
    ) -> Look:
        """After a release against before it, by all patterns, up to the end of the longest window.

        ``others`` are all rollouts that are known, this one may be among them; without it they are read.
        """
        started = rollout.started_at.timestamp()
        end = min(_floor(now), _ceil(started + longest_window(watched)))
        start = _floor(started) - self.history_s
        known = self.history.rollouts(start, end) if others is None else others
        names = tuple(watched.patterns)
        compared_from = _floor(started) - release.BEFORE_S
        load, measured = self.history.release(watched, names, start, end, compared_from)
        return self._judged(
            watched,
            comparison="release",
            sensitivity=_sensitivity(watched, names),
            now=end,
            rollout=rollout,
            other_rollouts=tuple(one for one in known if one != rollout and _before(one, end)),
            load=load,
            measured=measured,
        )

    def look_at_canary(
        self,
        watched: Watched,
        canary: str,
        stable: str,
        now: float,
        started_at: float | None = None,
        patterns: Sequence[str] = (),
    ) -> Look:
        """The canary's pods against the stable ones since the canary's start, as strict as a gate.

        The two hashes and ``started_at`` are held to what the series show. No ``patterns``: all. Raises
        NothingSeen, too.
        """
        told_apart(canary, stable)
        end = _floor(now)
        ran, since = self._ran(watched, canary, end)
        model = ran.get((watched.namespace, watched.model), ())
        run = find_canary(model, canary, stable, end, started_at)
        rollout = Rollout(
            namespace=watched.namespace,
            model=watched.model,
            version=run.version,
            hash=canary,
            previous_hash=stable,
            started_at=moment(run.first if started_at is None else started_at),
        )
        started = rollout.started_at.timestamp()
        start = max(_floor(started), end - _LONGEST_CANARY_S)
        if start >= end:
            raise NothingSeen("the canary has run for less than a minute")
        names = tuple(patterns) or tuple(watched.patterns)
        load, stable_load, measured = self.history.canary(watched, names, start, end, canary, stable)
        return self._judged(
            watched,
            comparison="canary",
            sensitivity="low",
            now=end,
            rollout=rollout,
            other_rollouts=tuple(one for one in starts(ran, since) if not _is_of(one, watched, canary)),
            load=load,
            stable_load=stable_load,
            measured=measured,
        )

    def _ran(self, watched: Watched, canary: str, end: float) -> tuple[Runs, float]:
        """What ran in the last days, where the canary is older in all the history; and since when."""
        since = end - _RECENT_S
        ran = self.history.runs(since - GAP_S, end)
        model = ran.get((watched.namespace, watched.model), ())
        if any(run.hash == canary and run.first < since for run in model):
            since = end - self.history_s
            ran = self.history.runs(since - GAP_S, end)
        return ran, since

    def look_at_now(self, watched: Watched, now: float, others: Sequence[Rollout] | None = None) -> Look:
        """Now against before, no release being known."""
        end = _floor(now)
        known = self.rollouts(now) if others is None else others
        names = tuple(watched.patterns)
        compared_from = end - max(rolling.WINDOWS_S) - release.BEFORE_S
        load, measured = self.history.release(watched, names, end - self.history_s, end, compared_from)
        return self._judged(
            watched,
            comparison="watch",
            sensitivity=_sensitivity(watched, names),
            now=end,
            rollout=None,
            other_rollouts=tuple(one for one in known if _before(one, end)),
            load=load,
            measured=measured,
        )

    def _judged(
        self,
        watched: Watched,
        *,
        comparison: Comparison,
        sensitivity: Sensitivity,
        now: float,
        rollout: Rollout | None,
        other_rollouts: tuple[Rollout, ...],
        load: Series,
        measured: tuple[Measured, ...],
        stable_load: Series | None = None,
    ) -> Look:
        evidence = Evidence(
            environment=self.environment,
            team=watched.team,
            namespace=watched.namespace,
            model=watched.model,
            severity=watched.severity,
            comparison=comparison,
            sensitivity=sensitivity,
            now=now,
            rollout=rollout,
            other_rollouts=other_rollouts,
            load=load,
            measured=measured,
            stable_load=stable_load,
        )
        return Look(evidence, judge(evidence))


def with_cause(verdict: Verdict, forge: Forge, publish: Publish, argocd: ArgoCd | None) -> Verdict:
    """The verdict with the commit and the pull request of its rollout. Raises ForgeFailed."""
    if verdict.rollout is None:
        return verdict
    commit, pull = cause.find(
        forge, publish, argocd, verdict.rollout, verdict.environment, verdict.team, verdict.model
    )
    return msgspec.structs.replace(verdict, commit=commit, pull_request=pull)


def longest_window(watched: Watched) -> float:
    """Seconds after a release until all patterns are decided."""
    return max(pattern.window_s for pattern in watched.patterns.values())


def decided_at(watched: Watched, rollout: Rollout) -> float:
    """When a release is decided: no later look finds more."""
    return _ceil(rollout.started_at.timestamp() + longest_window(watched))


def of_model(rollouts: Sequence[Rollout], watched: Watched) -> list[Rollout]:
    """Those of one model, in their order."""
    return [one for one in rollouts if (one.namespace, one.model) == (watched.namespace, watched.model)]


def _sensitivity(watched: Watched, names: Sequence[str]) -> Sensitivity:
    """A verdict has one strictness: low where no pattern wants more."""
    return "normal" if any(watched.patterns[name].sensitivity == "normal" for name in names) else "low"


def _before(rollout: Rollout, end: float) -> bool:
    return rollout.started_at.timestamp() < end


def _is_of(rollout: Rollout, watched: Watched, pod_hash: str) -> bool:
    return (rollout.namespace, rollout.model, rollout.hash) == (watched.namespace, watched.model, pod_hash)


def _floor(time: float) -> float:
    return math.floor(time / STEP_S) * STEP_S


def _ceil(time: float) -> float:
    return math.ceil(time / STEP_S) * STEP_S
