"""Where series come from: the interface of a history, whatever it reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from modelway_runtime.detection.evidence import Measured, Series
from modelway_runtime.detection.settings import Watched
from modelway_runtime.detection.verdict import Rollout

if TYPE_CHECKING:
    from modelway_runtime.detection.starts import Runs

STEP_S = 60.0
"""Seconds from one sample to the next, in every series that the detector reads."""


class HistoryFailed(Exception):
    """The history could not be read; the text says what was asked, what came back and what to do."""


class NothingSeen(Exception):
    """There is nothing to judge yet; the text says what is missing."""


class History(Protocol):
    """Series of one environment. ``start`` and ``end`` are Unix seconds; samples lie in [start, end)."""

    def release(
        self,
        watched: Watched,
        patterns: Sequence[str],
        start: float,
        end: float,
        compared_from: float | None = None,
    ) -> tuple[Series, tuple[Measured, ...]]:
        """The load (requests a second), and a series for each pattern, of all versions together.

        Histograms are read on the bounds that they have all the time from ``compared_from`` (None: the start)
        on; what was before, and had others there, is missing.
        """
        ...

    def canary(
        self, watched: Watched, patterns: Sequence[str], start: float, end: float, canary: str, stable: str
    ) -> tuple[Series, Series, tuple[Measured, ...]]:
        """The loads of canary and stable pods, and both series for each pattern, together and pod by pod; by
        pod template hash."""
        ...

    def rollouts(self, start: float, end: float) -> tuple[Rollout, ...]:
        """What started to run within the time, of all models of the environment; the earliest first."""
        ...

    def runs(self, start: float, end: float) -> Runs:
        """What ran within the time, of all models of the environment."""
        ...
