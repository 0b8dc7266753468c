"""The history in a file: replay, and a laptop without a server.

What a file is, its name says:

``*.csv``, ``*.parquet``
    One model, one row a time. ``time`` in Unix seconds or RFC 3339 with a zone; ``load`` in requests a
    second; a column for each pattern, by its name in the settings and in the unit of its metric. Columns
    ``version``, ``hash`` and ``pod`` are optional: rollouts are told from the first two, and canaries from
    ``hash`` and ``pod`` (then a time has a row for each pod). Empty and NaN are missing. The order of rows
    does not matter; rows of one step are averaged.

anything else
    OpenMetrics text with timestamps, as ``promtool tsdb create-blocks-from openmetrics`` reads it: the
    metrics of ``docs/contract.md`` with the labels of the scrape. It is asked what a Prometheus would be
    asked.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import cached_property

from modelway_runtime.detection import measuring, openmetrics, promql, tables
from modelway_runtime.detection.evidence import Array, Measured, Pod, Series
from modelway_runtime.detection.history import HistoryFailed
from modelway_runtime.detection.measuring import Grid
from modelway_runtime.detection.samples import Samples
from modelway_runtime.detection.settings import Watched
from modelway_runtime.detection.starts import GAP_S, Runs, runs, starts
from modelway_runtime.detection.tables import Table
from modelway_runtime.detection.verdict import Rollout


class FileHistory:
    """Series from a file, which is read once, when it is first needed. All methods raise HistoryFailed.

    A table is of the model ``watched``; OpenMetrics may hold any number of models, whose rates are taken
    over windows that fit ``scrape_interval_s``.
    """

    def __init__(self, path: str | os.PathLike[str], watched: Watched, scrape_interval_s: float) -> None:
        self._path = os.fspath(path)
        self._watched = watched
        self._window_s = promql.rate_window(scrape_interval_s)

    def release(
        self,
        watched: Watched,
        patterns: Sequence[str],
        start: float,
        end: float,
        compared_from: float | None = None,
    ) -> tuple[Series, tuple[Measured, ...]]:
        """``History.release``."""
        grid, content = Grid.within(start, end), self._content
        if isinstance(content, Samples):
            return measuring.release(content.ask, watched, patterns, grid, self._window_s, compared_from)
        load, *columns = self._columns(content, watched, patterns, grid)
        return grid.series(load), tuple(
            Measured(name, watched.patterns[name], grid.series(values))
            for name, values in zip(patterns, columns, strict=True)
        )

    def canary(
        self, watched: Watched, patterns: Sequence[str], start: float, end: float, canary: str, stable: str
    ) -> tuple[Series, Series, tuple[Measured, ...]]:
        """``History.canary``."""
        hashes = measuring.told_apart(canary, stable)
        grid, content = Grid.within(start, end), self._content
        if isinstance(content, Samples):
            return measuring.canary(content.ask, watched, patterns, grid, self._window_s, hashes)
        if tables.HASH not in content.names:
            raise HistoryFailed(f"{self._path}: no column `hash`, which tells canary from stable.")
        (load, *columns), (stable_load, *stable_columns) = (
            self._columns(content, watched, patterns, grid, each) for each in hashes
        )
        pods, stable_pods = (self._pods(content, watched, patterns, grid, each) for each in hashes)
        measured = tuple(
            Measured(
                name,
                watched.patterns[name],
                grid.series(columns[index]),
                grid.series(stable_columns[index]),
                pods=pods[index],
                stable_pods=stable_pods[index],
            )
            for index, name in enumerate(patterns)
        )
        return grid.series(load), grid.series(stable_load), measured

    def rollouts(self, start: float, end: float) -> tuple[Rollout, ...]:
        """``History.rollouts``; of all models in the file."""
        return starts(self.runs(start - GAP_S, end), start)

    def runs(self, start: float, end: float) -> Runs:
        """``History.runs``; of all models in the file."""
        grid, content = Grid.within(start, end), self._content
        if isinstance(content, Samples):
            query = promql.Running(promql.Selector(promql.READY, ()))
            return runs(content.answer(query, grid), grid)
        return runs(content.running(grid, self._watched.namespace, self._watched.model), grid)

    def last(self) -> float:
        """Unix seconds of the newest sample of any kind."""
        content = self._content
        return content.last() if isinstance(content, Samples) else float(content.times.max(initial=0.0))

    @cached_property
    def _content(self) -> Table | Samples:
        try:
            if self._path.endswith(".csv"):
                return tables.read_csv(self._path)
            if self._path.endswith(".parquet"):
                return tables.read_parquet(self._path)
            return Samples(openmetrics.read(self._path, promql.METRICS))
        except OSError as error:
            raise HistoryFailed(f"{self._path}: {error.strerror or error}.") from None

    def _pods(
        self, table: Table, watched: Watched, patterns: Sequence[str], grid: Grid, pod_hash: str
    ) -> list[tuple[Pod, ...]]:
        """A revision's pods, for each pattern."""
        read = {
            pod: self._columns(table, watched, patterns, grid, pod_hash, pod)
            for pod in table.pods(grid, pod_hash)
        }
        return [
            tuple(
                Pod(pod, grid.series(columns[0]), grid.series(columns[1 + index]))
                for pod, columns in read.items()
            )
            for index in range(len(patterns))
        ]

    def _columns(
        self,
        table: Table,
        watched: Watched,
        patterns: Sequence[str],
        grid: Grid,
        pod_hash: str | None = None,
        pod: str | None = None,
    ) -> list[Array]:
        """The load, then a column for each pattern."""
        mine = (self._watched.namespace, self._watched.model)
        if (watched.namespace, watched.model) != mine:
            raise HistoryFailed(
                f"{self._path}: its series are of {self._watched.model}, not of {watched.model}: "
                "a table holds one model."
            )
        metrics = [(name, measuring.pattern_of(watched, name).metric == "throughput") for name in patterns]
        return table.series([(tables.LOAD, True), *metrics], grid, pod_hash, pod)
