"""What a test says of one metric, before it is decided what counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from modelway_runtime.detection.evidence import Array, Measured
from modelway_runtime.detection.prepare import Form
from modelway_runtime.detection.verdict import Counts, Reason, Test

SPREAD_EFFECT = 0.5
"""A spread counts as changed from half as much again (or less by a third)."""


POWER = 0.84
"""Standard deviations beyond its threshold at which an effect is seen in 80 of 100 cases."""


class Size(Protocol):
    """An effect and how far chance carries it; of a log, where the metric's form is one."""

    @property
    def effect(self) -> float: ...

    @property
    def p(self) -> float: ...

    @property
    def deviation(self) -> float:
        """Standard deviation of the effect by chance."""
        ...

    def threshold(self, share: float) -> float:
        """The size of an effect whose p is ``share``."""
        ...


@dataclass(frozen=True, slots=True)
class Span:
    """The three windows in Unix seconds; ``history`` is None where none was needed."""

    history: float | None
    before: float
    start: float
    end: float


@dataclass(frozen=True, slots=True)
class Context:
    """What was compared, whatever the tests say."""

    before: float | None
    after: float | None
    span: Span
    counts: Counts
    missing_ratio: float
    load_change: float | None


@dataclass(frozen=True, slots=True)
class Shown:
    """What a person looks at: times (Unix seconds), values, what the history lets expect then, and between
    which bounds 99 of 100 single values lie."""

    times: Array
    values: Array
    expected: Array
    low: Array
    high: Array


@dataclass(frozen=True, slots=True)
class Finding:
    """One test of one metric. ``size`` is None exactly where ``reason`` says why, or where it is ``pending``.

    ``lasts``: the effect is still there in the second half of the window. ``weight`` multiplies the share of
    false discoveries that this test may have: a change of spread must be clearer than one of level. ``shown``
    goes with the level.
    """

    measured: Measured
    test: Test
    form: Form
    context: Context
    size: Size | None = None
    reason: Reason | None = None
    lasts: bool = True
    weight: float = 1.0
    pending: bool = False
    shown: Shown | None = None

    @property
    def minimum(self) -> float:
        """The smallest relative effect that matters."""
        return SPREAD_EFFECT if self.test == "spread" else self.measured.pattern.minimum_effect

    def relative(self, effect: float) -> float:
        """An effect of the size's scale as a share of the value before; PSI for a distribution."""
        return float(np.expm1(min(effect, 50.0))) if self.test == "spread" or self.logarithmic else effect

    @property
    def logarithmic(self) -> bool:
        """Whether the effect is a difference of logs."""
        return self.test != "distribution" and self.form != "linear"
