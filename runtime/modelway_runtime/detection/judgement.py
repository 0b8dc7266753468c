"""What the judge gives: the verdict, and for each metric the series that a person looks at."""

from __future__ import annotations

from dataclasses import dataclass

from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.verdict import Unit, Verdict


@dataclass(frozen=True, slots=True)
class Plot:
    """One metric around a release. All arrays have one length; NaN is missing.

    ``times`` are Unix seconds, ``values`` what was measured, ``expected`` what the history lets expect at
    that time of day and load, ``low`` and ``high`` the band that the history stays in (the null).
    """

    name: str
    unit: Unit
    times: Array
    values: Array
    expected: Array
    low: Array
    high: Array
    stable: Array | None
    change_points: tuple[float, ...]
    released_at: float | None
    others_released_at: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict without commit and pull request, which are looked up after it, and its plots."""

    verdict: Verdict
    plots: tuple[Plot, ...]
