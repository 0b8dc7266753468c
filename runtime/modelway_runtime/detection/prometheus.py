"""The history in a Prometheus, Thanos or Mimir."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

from modelway_runtime.detection import measuring, promql
from modelway_runtime.detection.evidence import Array, Measured, Series
from modelway_runtime.detection.history import STEP_S
from modelway_runtime.detection.measuring import Answer, Grid
from modelway_runtime.detection.promapi import MOST_POINTS, Api
from modelway_runtime.detection.promql import Query
from modelway_runtime.detection.settings import Prometheus, Watched
from modelway_runtime.detection.starts import GAP_S, Runs, runs, starts
from modelway_runtime.detection.verdict import Rollout

THREADS = 4
"""Queries at a time; the server has others to answer."""


class PrometheusHistory:
    """Series from a server. All methods raise HistoryFailed.

    ``namespaces`` are those of the environment, in which rollouts are looked for. One call takes at most
    ``within_s`` seconds; without it the retries and timeouts of the queries alone bound it.
    """

    def __init__(self, server: Prometheus, namespaces: Iterable[str], within_s: float = math.inf) -> None:
        self._api = Api(server)
        self._window_s = promql.rate_window(server.scrape_interval_s)
        self._namespaces = tuple(namespaces)
        self._within_s = within_s

    def release(
        self,
        watched: Watched,
        patterns: Sequence[str],
        start: float,
        end: float,
        compared_from: float | None = None,
    ) -> tuple[Series, tuple[Measured, ...]]:
        """``History.release``."""
        grid = Grid.within(start, end)
        return measuring.release(self._ask, watched, patterns, grid, self._window_s, compared_from)

    def canary(
        self, watched: Watched, patterns: Sequence[str], start: float, end: float, canary: str, stable: str
    ) -> tuple[Series, Series, tuple[Measured, ...]]:
        """``History.canary``."""
        hashes = measuring.told_apart(canary, stable)
        grid = Grid.within(start, end)
        return measuring.canary(self._ask, watched, patterns, grid, self._window_s, hashes)

    def rollouts(self, start: float, end: float) -> tuple[Rollout, ...]:
        """``History.rollouts``."""
        return starts(self.runs(start - GAP_S, end), start)

    def runs(self, start: float, end: float) -> Runs:
        """``History.runs``."""
        query, grid = promql.running(self._namespaces), Grid.within(start, end)
        return runs(self._ask([query], grid)[query], grid)

    def _ask(self, queries: Sequence[Query], grid: Grid) -> Mapping[Query, Answer]:
        """All queries over all the time, in pieces that the server takes."""
        deadline = time.monotonic() + self._within_s
        pieces = [
            Grid(grid.start + at * STEP_S, min(MOST_POINTS, grid.count - at))
            for at in range(0, grid.count, MOST_POINTS)
        ]
        tasks = [(query, piece) for query in queries for piece in pieces]
        found: dict[Query, dict[tuple[str, ...], Array]] = {query: {} for query in queries}
        with ThreadPoolExecutor(THREADS) as pool:
            futures = [pool.submit(self._api.query_range, *task, deadline) for task in tasks]
            try:
                for (query, piece), future in zip(tasks, futures, strict=True):
                    at = round((piece.start - grid.start) / STEP_S)
                    for key, values in future.result().items():
                        found[query].setdefault(key, grid.nothing())[at : at + piece.count] = values
            finally:
                pool.shutdown(wait=False, cancel_futures=True)
        return found
