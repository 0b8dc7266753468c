"""Requests that wait for an instance of their model, the highest priority first, the oldest of it first."""

from __future__ import annotations

from asyncio import Future
from collections import deque
from collections.abc import Callable, Iterator

import msgspec

from modelway_runtime.serving.values import Arrays, Connection

HIGHEST, DEFAULT, LOWEST = 1, 5, 10
"""Levels of priority; a caller's 0 is the default, more than the lowest is the lowest."""


class Work(msgspec.Struct, eq=False):
    """One request in the queue. Times are of ``time.monotonic()``; only equal ``shapes`` make one batch."""

    inputs: Arrays
    rows: int
    shapes: object
    wanted: tuple[str, ...]
    deadline: float
    level: int
    connection: Connection
    future: Future[Arrays]
    queued_at: float
    started_at: float = 0.0


def level_of(priority: int) -> int:
    """The level of a caller's priority."""
    return min(max(priority, HIGHEST), LOWEST) if priority else DEFAULT


class WorkQueue:
    """What waits. ``rows`` and ``requests`` count it."""

    def __init__(self) -> None:
        self._levels: tuple[deque[Work], ...] = tuple(deque() for _ in range(LOWEST + 1))
        self.rows = 0
        self.requests = 0

    def push(self, work: Work) -> None:
        self._levels[work.level].append(work)
        self.rows += work.rows
        self.requests += 1

    def take(self, max_rows: int, alive: Callable[[Work], bool]) -> list[Work]:
        """The next batch: at least one request, of at most ``max_rows`` rows if there is more than one.

        A request that is not ``alive`` (which then has answered it) is left out.
        """
        batch: list[Work] = []
        rows = 0
        for level in self._levels:
            while level:
                work = level[0]
                if not alive(work):
                    self._pop(level)
                    continue
                if batch and (rows + work.rows > max_rows or work.shapes != batch[0].shapes):
                    return batch
                batch.append(self._pop(level))
                rows += work.rows
                if rows >= max_rows:
                    return batch
        return batch

    def remove_dead(self, alive: Callable[[Work], bool]) -> float:
        """Leave out all that are not ``alive``; the earliest deadline of the others, or infinity."""
        earliest = float("inf")
        for level in self._levels:
            kept = [work for work in level if alive(work)]
            if len(kept) < len(level):
                level.clear()
                level.extend(kept)
            earliest = min(earliest, min((work.deadline for work in kept), default=earliest))
        self.rows = sum(work.rows for work in self)
        self.requests = sum(map(len, self._levels))
        return earliest

    def oldest(self) -> float:
        """When the longest waiting request came; infinity when none waits."""
        return min((level[0].queued_at for level in self._levels if level), default=float("inf"))

    def __iter__(self) -> Iterator[Work]:
        for level in self._levels:
            yield from level

    def _pop(self, level: deque[Work]) -> Work:
        work = level.popleft()
        self.rows -= work.rows
        self.requests -= 1
        return work
