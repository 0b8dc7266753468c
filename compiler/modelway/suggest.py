"""The nearest known word, for "did you mean …?"."""

from __future__ import annotations

from collections.abc import Iterable

# A longer word is no slip of a finger, and comparing it costs its length squared.
LONGEST = 100

_DROP_SEPARATORS = str.maketrans("", "", "_- ")


def nearest(word: str, candidates: Iterable[str]) -> str | None:
    """The candidate that ``word`` was probably meant to be, or None; the order given does not matter.

    A word that differs only in case or separators (``max_rows`` for ``maxRows``) comes first, else
    the least number of slips (a letter left out, added, changed, or two swapped), at most one slip
    for every three letters.
    """
    if not 0 < len(word) <= LONGEST:
        return None
    folded, letters = word.casefold(), _letters(word)
    squeezed = folded.translate(_DROP_SEPARATORS)
    limit = len(word) // 3
    best: tuple[int, str] | None = None
    for candidate in candidates:
        # Filters first: a file may hold 200,000 unknown keys, and each asks for all candidates.
        if abs(len(candidate) - len(word)) > max(limit, 3) or candidate == word:
            continue
        other = candidate.casefold()
        if squeezed and other.translate(_DROP_SEPARATORS) == squeezed:
            slips = 0
        elif limit and _may_be_within(letters, _letters(candidate), limit):
            slips = _slips(folded, other, limit)
        else:
            continue
        if slips <= limit and (best is None or (slips, candidate) < best):
            best = (slips, candidate)
            limit = slips
    return best[1] if best else None


def _letters(word: str) -> frozenset[str]:
    return frozenset(word.casefold())


def _may_be_within(one: frozenset[str], other: frozenset[str], limit: int) -> bool:
    """False if the letters alone show more than ``limit`` slips: each slip mends one letter a side."""
    return len(one - other) <= limit and len(other - one) <= limit


def _slips(one: str, other: str, limit: int) -> int:
    """The optimal string alignment distance, or any number above ``limit`` once it must be above."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for i, letter in enumerate(one, 1):
        before_that, before, row = before, row, [i]
        for j, against in enumerate(other, 1):
            cost = min(before[j] + 1, row[-1] + 1, before[j - 1] + (letter != against))
            if i > 1 and j > 1 and letter == other[j - 2] and one[i - 2] == against:
                cost = min(cost, before_that[j - 2] + 1)
            row.append(cost)
        # A swap looks back two rows, but a row's least is at most one above the one before it: with
        # this row beyond the limit, that one is at it, and the swap itself costs one more.
        if min(row) > limit:
            return limit + 1
    return row[-1]
