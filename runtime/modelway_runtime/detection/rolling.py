"""Watching without a release: the last half hour, hour and three hours against what came before."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from modelway_runtime.detection.evidence import Measured, Series
from modelway_runtime.detection.finding import Finding
from modelway_runtime.detection.release import findings, prepared

WINDOWS_S = (1800.0, 3600.0, 10800.0)


def latest(one: Measured, load: Series, now: float, earlier: Sequence[float]) -> Finding:
    """The level test of that window before ``now`` (Unix seconds) which says most; the first where none
    can say anything."""
    found = [_level(one, load, now - window, now, earlier) for window in WINDOWS_S]
    decided = [each for each in found if each.size is not None and each.lasts]
    sized = decided or [each for each in found if each.size is not None]
    if not sized:
        return found[0]
    return min(sized, key=lambda each: each.size.p if each.size else np.inf)


def _level(one: Measured, load: Series, start: float, now: float, earlier: Sequence[float]) -> Finding:
    return findings(prepared(one, load, start, now, earlier), load, start, now, only_level=True)[0]
