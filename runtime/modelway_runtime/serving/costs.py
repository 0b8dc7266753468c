"""What a batch costs, learnt from those that were computed."""

from __future__ import annotations

import math

_UP, _DOWN = 0.05, 0.5
"""How much of a new time is believed: a slow one is mostly a neighbour's fault, a fast one is the truth."""


class Costs:
    """Seconds of compute by the number of rows, in steps of powers of two."""

    def __init__(self) -> None:
        self._seconds: dict[int, float] = {}
        self._per_row = math.inf

    def learn(self, rows: int, seconds: float) -> None:
        step = rows.bit_length()
        known = self._seconds.get(step)
        if known is None:
            self._seconds[step] = seconds
        else:
            self._seconds[step] = known + (_DOWN if seconds < known else _UP) * (seconds - known)
        largest = max(self._seconds)
        self._per_row = self._seconds[largest] / (1 << largest - 1)

    def knows(self, rows: int) -> bool:
        """Whether a batch of about so many rows was computed before."""
        return rows.bit_length() in self._seconds

    def of(self, rows: int) -> float:
        """Expected seconds of a batch; infinity while nothing is known."""
        step = rows.bit_length()
        known = self._seconds.get(step)
        if known is not None:
            return known
        larger = [self._seconds[other] for other in self._seconds if other > step]
        return min(larger) if larger else self._per_row * rows

    @property
    def per_row(self) -> float:
        """Expected seconds of a row in the largest batches seen; infinity while nothing is known."""
        return self._per_row
