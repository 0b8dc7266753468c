"""Which appearances of a revision are rollouts."""

from __future__ import annotations

import numpy as np
import pytest

from modelway_runtime.detection.measuring import Grid
from modelway_runtime.detection.starts import runs as runs_of
from modelway_runtime.detection.starts import starts

T0 = 1_790_000_040.0
GRID = Grid(T0 - 600, 610)
Minutes = list[tuple[int, int]]


def found(**runs: Minutes) -> list[tuple[str, str | None, int]]:
    """Minutes at which each hash (of one version) ran → (hash, what ran before, minute it started)."""
    return _found({("1", name if name != "none" else ""): spans for name, spans in runs.items()})


def _found(runs: dict[tuple[str, str], Minutes]) -> list[tuple[str, str | None, int]]:
    answer = {}
    for (version, pod_hash), spans in runs.items():
        values = GRID.nothing()
        for first, last in spans:
            values[first + 10 : last + 10] = 1.0
        answer["shop", "ranker", version, pod_hash] = values
    return [
        (one.hash or one.version, one.previous_hash, round((one.started_at.timestamp() - T0) / 60))
        for one in starts(runs_of(answer, GRID), T0)
    ]


@pytest.mark.parametrize(
    ("runs", "expected"),
    [
        ({}, []),
        ({"a": [(-10, 600)]}, []),  # it already ran
        ({"a": [(-3, 600)]}, []),
        ({"a": [(-10, 100), (109, 600)]}, []),  # scrapes failed
        ({"a": [(-10, 100), (300, 600)]}, []),  # away by itself: scaled to zero, or an outage
        ({"a": [(-10, 100), (108, 600)], "b": [(50, 600)]}, [("b", "a", 50)]),
        ({"a": [(-10, 100), (112, 600)], "b": [(50, 600)]}, [("b", "a", 50), ("a", "b", 112)]),
        ({"a": [(0, 600)]}, [("a", None, 0)]),
        ({"a": [(-10, 100)], "b": [(100, 600)]}, [("b", "a", 100)]),
        ({"a": [(-10, 120)], "b": [(100, 600)]}, [("b", "a", 100)]),  # beside each other
        ({"a": [(-10, 100)], "b": [(300, 600)]}, [("b", "a", 300)]),  # after an outage
        # A rollback is a rollout again.
        ({"a": [(-10, 120), (200, 600)], "b": [(100, 210)]}, [("b", "a", 100), ("a", "b", 200)]),
        # An aborted canary, then another: what it is compared with is the stable one.
        ({"a": [(-10, 600)], "b": [(100, 201)], "c": [(200, 600)]}, [("b", "a", 100), ("c", "a", 200)]),
        # The same canary tried again.
        ({"a": [(-10, 600)], "b": [(100, 150), (200, 300)]}, [("b", "a", 100), ("b", "a", 200)]),
        # An outage of Prometheus while two ran.
        ({"a": [(-10, 300), (400, 600)], "b": [(100, 301), (400, 600)]}, [("b", "a", 100)]),
        ({"a": [(-10, 100)], "b": [(100, 300)], "c": [(300, 600)]}, [("b", "a", 100), ("c", "b", 300)]),
        ({"none": [(-10, 100)], "b": [(100, 600)]}, [("b", None, 100)]),
    ],
)  # fmt: skip
def test_rollouts(runs: dict[str, Minutes], expected: list[tuple[str, str | None, int]]) -> None:
    assert found(**runs) == expected


def test_without_hashes_the_version_tells() -> None:
    assert _found({("1", ""): [(-10, 100)], ("2", ""): [(100, 600)]}) == [("2", None, 100)]


def test_models_are_apart_and_the_earliest_first() -> None:
    answer = {}
    for model, version, first, last in (
        ("x", "1", 0, 300),
        ("x", "2", 300, 610),
        ("y", "1", 0, 200),
        ("y", "2", 200, 610),
    ):
        answer["shop", model, version, ""] = np.where(
            (np.arange(610) >= first) & (np.arange(610) < last), 1.0, np.nan
        )
    assert [(one.model, one.version) for one in starts(runs_of(answer, GRID), T0)] == [("y", "2"), ("x", "2")]
