"""Which pods a gate takes for the canary, whatever it is told."""

from __future__ import annotations

import itertools

import pytest

from modelway_runtime.detection.history import NothingSeen
from modelway_runtime.detection.revisions import find_canary
from modelway_runtime.detection.starts import Run

MINUTE = 60.0
NOW = 1_790_000_040.0
Spans = dict[str, list[tuple[int, int]]]
"""Of each hash the minutes before now in which it ran, as (first, last)."""

CANARY: Spans = {"old": [(5000, 0)], "new": [(40, 0)]}
AFTER_AN_ABORT: Spans = {"old": [(5000, 0)], "bad": [(200, 150)], "new": [(40, 0)]}
OUTAGE: Spans = {"old": [(5000, 30), (12, 0)], "new": [(60, 30), (12, 0)]}
ROLLBACK: Spans = {"old": [(5000, 900), (40, 0)], "new": [(1000, 0)]}
TRIED_AGAIN: Spans = {"old": [(5000, 0)], "new": [(500, 450), (40, 0)]}
PROMOTED: Spans = {"old": [(5000, 30)], "new": [(90, 0)]}
THIRD: Spans = {"oldest": [(9000, 900)], "old": [(1000, 0)], "new": [(40, 0)]}


def runs(spans: Spans) -> list[Run]:
    told = [
        Run(NOW - first * MINUTE, NOW - last * MINUTE, "1", name)
        for name, each in spans.items()
        for first, last in each
    ]
    return sorted(told, key=lambda run: run[:3])


@pytest.mark.parametrize(
    ("spans", "began"),
    [(CANARY, 40), (AFTER_AN_ABORT, 40), (OUTAGE, 60), (ROLLBACK, 40), (TRIED_AGAIN, 40), (THIRD, 40)],
)
def test_a_canary_is_found_in_one_pair_of_all(spans: Spans, began: int) -> None:
    """In each history exactly one pair of hashes is a canary and its stable pods; every other is refused."""
    right = ("old", "new") if spans is ROLLBACK else ("new", "old")
    pairs = list(itertools.permutations([*spans, "never"], 2))
    assert right in pairs
    for canary, stable in pairs:
        if (canary, stable) == right:
            assert find_canary(runs(spans), canary, stable, NOW).first == NOW - began * MINUTE
        else:
            with pytest.raises(NothingSeen):
                find_canary(runs(spans), canary, stable, NOW)


def test_after_the_promotion_there_is_no_canary() -> None:
    for pair in (("new", "old"), ("old", "new")):
        with pytest.raises(NothingSeen):
            find_canary(runs(PROMOTED), *pair, NOW)


@pytest.mark.parametrize("seconds", [-299, 0, 299])
def test_a_start_near_the_first_sample_is_believed(seconds: int) -> None:
    first = NOW - 40 * MINUTE
    assert find_canary(runs(CANARY), "new", "old", NOW, first + seconds).first == first


@pytest.mark.parametrize("seconds", [-3600, -301, 301, 3600])
def test_another_start_is_not(seconds: int) -> None:
    with pytest.raises(NothingSeen, match="by its first sample"):
        find_canary(runs(CANARY), "new", "old", NOW, NOW - 40 * MINUTE + seconds)


def test_two_that_began_at_once_are_no_canary() -> None:
    with pytest.raises(NothingSeen, match="no earlier"):
        find_canary(runs({"old": [(40, 0)], "new": [(40, 0)]}), "new", "old", NOW)
