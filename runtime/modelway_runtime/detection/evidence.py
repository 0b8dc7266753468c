"""Evidence: all that a verdict is made from. It is stored, so that the verdict can be made again."""

from __future__ import annotations

import gzip
import hashlib
import io
import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeAlias

import msgspec
import numpy as np
from numpy.typing import NDArray

from modelway_runtime.detection.settings import Pattern, Sensitivity, Severity
from modelway_runtime.detection.verdict import Comparison, Rollout

Array: TypeAlias = NDArray[np.float64]
Mask: TypeAlias = NDArray[np.bool_]
Index: TypeAlias = NDArray[np.int64]

FEWEST_PODS = 3
"""Stable pods that tell how much pods differ; two have a spread that may be off by a factor of sixty."""


@dataclass(frozen=True, slots=True)
class Series:
    """A regular series: ``values[i]`` is of the time ``start + i * step`` (Unix seconds); NaN is missing."""

    start: float
    step: float
    values: Array

    @property
    def times(self) -> Array:
        """Unix seconds, one for each value."""
        return self.start + self.step * np.arange(len(self.values), dtype=np.float64)

    def index(self, time: float) -> int:
        """Of the first sample at or after a Unix time, within 0 and the length."""
        return int(np.clip(np.ceil((time - self.start) / self.step - 1e-9), 0, len(self.values)))


@dataclass(frozen=True, slots=True)
class Buckets:
    """A histogram over time: ``counts[i, k]`` new observations in step ``i`` that were at most ``bounds[k]``
    and above ``bounds[k - 1]``. The last column has those above the last bound; NaN is missing."""

    start: float
    step: float
    bounds: Array
    counts: Array


@dataclass(frozen=True, slots=True)
class Resolution:
    """The bucket of a histogram that a quantile was in, step by step: more is not known of it.

    ``low`` and ``high`` are the bounds of that bucket; NaN is no bound. ``unshared`` are the bounds that only
    some of the compared histograms have; the quantile is read without them.
    """

    low: Series
    high: Series
    unshared: tuple[float, ...] = ()


@dataclass(frozen=True, slots=True)
class Pod:
    """What one pod measured; ``load`` in requests a second."""

    name: str
    load: Series
    series: Series
    buckets: Buckets | None = None


@dataclass(frozen=True, slots=True)
class Measured:
    """One pattern's series. For a canary ``series`` is the canary's and ``stable`` the stable version's, each
    over all pods; ``pods`` and ``stable_pods`` are the same pod by pod, as far as pods are told apart."""

    name: str
    pattern: Pattern
    series: Series
    stable: Series | None = None
    buckets: Buckets | None = None
    stable_buckets: Buckets | None = None
    queries: tuple[str, ...] = ()
    resolution: Resolution | None = None
    stable_resolution: Resolution | None = None
    pods: tuple[Pod, ...] = ()
    stable_pods: tuple[Pod, ...] = ()


@dataclass(frozen=True)
class Evidence:
    """``load`` is in requests a second and has the steps of all series; ``now`` (Unix seconds) is the time
    up to which series were read; ``other_rollouts`` are all earlier ones and those of other models."""

    environment: str
    team: str
    namespace: str
    model: str
    severity: Severity
    comparison: Comparison
    sensitivity: Sensitivity
    now: float
    rollout: Rollout | None
    other_rollouts: tuple[Rollout, ...]
    load: Series
    measured: tuple[Measured, ...]
    stable_load: Series | None = None

    @cached_property
    def document(self) -> bytes:
        """As canonical JSON: the same evidence, the same bytes."""
        return msgspec.json.encode(self, enc_hook=_plain, order="deterministic")

    @property
    def digest(self) -> str:
        """``sha256:`` and 64 hexadecimal digits, of the document."""
        return f"sha256:{hashlib.sha256(self.document).hexdigest()}"

    @property
    def started_at(self) -> float | None:
        """Unix seconds of the rollout's start; None without a rollout."""
        return self.rollout.started_at.timestamp() if self.rollout else None


class WrongEvidence(Exception):
    """A file that holds no evidence; the text says why."""


def pack(evidence: Evidence) -> bytes:
    """Compressed, the same bytes for the same evidence."""
    return gzip.compress(evidence.document, compresslevel=6, mtime=0)


MOST_BYTES = 1 << 30
"""What a packed file may unpack to: a day of minutes of a thousand series is a tenth of it."""


def unpack(packed: bytes) -> Evidence:
    """Raises WrongEvidence."""
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(packed)) as file:
            document = file.read(MOST_BYTES + 1)
        if len(document) > MOST_BYTES:
            raise WrongEvidence("it is larger than a gibibyte")
        return msgspec.json.decode(document, type=Evidence, dec_hook=_array)
    except (OSError, EOFError, msgspec.DecodeError, RecursionError, ValueError) as error:
        raise WrongEvidence(str(error)) from None


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()  # NaN and infinities become null
    raise NotImplementedError(type(value))


def _array(_kind: Any, value: Any) -> Array:
    """Null is NaN, in one dimension or two."""
    return np.array(
        [[_number(x) for x in row] if isinstance(row, list) else _number(row) for row in value], np.float64
    )


def _number(value: float | None) -> float:
    return math.nan if value is None else value
