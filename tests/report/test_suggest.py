"""The nearest known word."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelway.suggest import _slips, nearest

FIELDS = ("maxRows", "maxDelay", "serving", "rollout", "resource", "targets", "concurrency", "gpu", "id")


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("maxRow", "maxRows"),
        ("max_rows", "maxRows"),
        ("max-rows", "maxRows"),
        ("MAXROWS", "maxRows"),
        ("maxDelya", "maxDelay"),
        ("sevring", "serving"),
        ("rolout", "rollout"),
        ("ressources", "resource"),
        ("gpus", "gpu"),
        ("ID", "id"),
        ("ip", None),
        ("wholly different", None),
        ("maxRows", None),
        ("", None),
        ("___", None),
        ("maxRows" * 20, None),
    ],
)
def test_nearest(word: str, expected: str | None) -> None:
    assert nearest(word, FIELDS) == expected


def test_the_order_of_candidates_does_not_matter() -> None:
    candidates = ["cat", "car", "can", "CAB", "c_a_b"]
    for order in itertools.permutations(candidates):
        assert nearest("cax", order) == "CAB"
        assert nearest("cab", order) == "CAB"


@given(st.text(max_size=120), st.lists(st.text(max_size=120)))
def test_any_words(word: str, candidates: list[str]) -> None:
    found = nearest(word, candidates)
    assert found is None or (found in candidates and found != word)


letters = st.text("abcd", min_size=3, max_size=8)


@given(letters, st.lists(letters, max_size=5))
def test_filters_lose_nothing(word: str, candidates: list[str]) -> None:
    """What the filters and the early return leave is what comparing everything gives."""
    within = [(_plain_slips(word, c), c) for c in candidates if c != word]
    best = min((pair for pair in within if pair[0] <= len(word) // 3), default=None)
    assert nearest(word, candidates) == (best[1] if best else None)


@given(letters, letters, st.integers(0, 8))
def test_slips(one: str, other: str, limit: int) -> None:
    true = _plain_slips(one, other)
    assert _slips(one, other, limit) == true if true <= limit else _slips(one, other, limit) > limit


def _plain_slips(one: str, other: str) -> int:
    """The textbook's optimal string alignment."""
    cost = {(i, 0): i for i in range(len(one) + 1)} | {(0, j): j for j in range(len(other) + 1)}
    for i, j in itertools.product(range(1, len(one) + 1), range(1, len(other) + 1)):
        ways = [cost[i - 1, j] + 1, cost[i, j - 1] + 1, cost[i - 1, j - 1] + (one[i - 1] != other[j - 1])]
        if i > 1 and j > 1 and one[i - 1] == other[j - 2] and one[i - 2] == other[j - 1]:
            ways.append(cost[i - 2, j - 2] + 1)
        cost[i, j] = min(ways)
    return cost[len(one), len(other)]


def test_hostile_words_are_quick() -> None:
    started = time.process_time()
    candidates = [f"{'ab' * 49}{i}" for i in range(50)]
    for _ in range(2):
        nearest("ba" * 49, candidates)
    nearest("x" * 10_000_000, candidates)
    assert time.process_time() - started < 20  # quadratic work shows, a busy machine does not
