"""CSV and Parquet files with a column for each series."""

from __future__ import annotations

import csv
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.history import STEP_S, HistoryFailed
from modelway_runtime.detection.measuring import MOST_PODS, Answer, Grid, finite
from modelway_runtime.detection.openmetrics import LATEST_S
from modelway_runtime.extras import lacking

TIME, LOAD, VERSION, HASH, POD = "time", "load", "version", "hash", "pod"
MOST_ROWS = 50_000_000
_MOST_REVISIONS = 1000
_BLOCK = 10_000  # rows
_TEXT = frozenset({VERSION, HASH, POD})
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
_MISSING = frozenset({"", "nan", "null", "na", "inf", "+inf", "-inf"})
_MOMENT = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]+)?(?:[Zz]|[+-][0-9]{2}:[0-9]{2})"
)


@dataclass(frozen=True, slots=True)
class Table:
    """Rows of a file. ``revision[i]`` is the index in ``revisions`` (version, hash, pod) of row ``i``; times
    are Unix seconds, in any order; a value that is missing is NaN."""

    path: str
    times: Array
    revisions: tuple[tuple[str, str, str], ...]
    revision: NDArray[np.intp]
    columns: dict[str, Array]
    names: tuple[str, ...]

    def series(
        self,
        wanted: Sequence[tuple[str, bool]],
        grid: Grid,
        pod_hash: str | None = None,
        pod: str | None = None,
    ) -> list[Array]:
        """Columns at the times of a grid; ``wanted`` has names, and whether values of revisions add up.

        A time has the rows of the step that ends with it. Rows of one revision's pod within a step are
        averaged; then what runs beside each other is added up, or averaged by load (near for a quantile, not
        exact).
        """
        columns = [(self._column(name), adds) for name, adds in wanted]
        load = self._column(LOAD)
        rows, steps = self._rows(grid)
        if pod_hash is not None:
            chosen = [each[1] == pod_hash and pod in (None, each[2]) for each in self.revisions]
            there = np.array(chosen, bool)[self.revision[rows]]
            rows, steps = rows[there], steps[there]
        width = max(1, len(self.revisions))
        cells, cell = np.unique(steps * width + self.revision[rows], return_inverse=True)
        step = cells // width
        found = []
        with np.errstate(over="ignore", invalid="ignore"):  # what is too large is missing
            weight = _means(load[rows], cell, len(cells))
            for column, adds in columns:
                values = _means(column[rows], cell, len(cells))
                found.append(_summed(values, step, grid) if adds else _averaged(values, weight, step, grid))
        return found

    def running(self, grid: Grid, namespace: str, model: str) -> Answer:
        """1 where there is a row of a revision, by namespace, model, version and hash."""
        if VERSION not in self.names and HASH not in self.names:
            return {}
        pairs = {each[:2] for each in self.revisions}
        if len(pairs) > _MOST_REVISIONS:
            raise HistoryFailed(f"{self.path}: {len(pairs)} pairs of version and hash are no releases.")
        rows, steps = self._rows(grid)
        answer: dict[tuple[str, ...], Array] = {}
        for index, (version, pod_hash, _) in enumerate(self.revisions):
            values = answer.setdefault((namespace, model, version, pod_hash), grid.nothing())
            values[steps[self.revision[rows] == index]] = 1.0
        return answer

    def pods(self, grid: Grid, pod_hash: str) -> list[str]:
        """Names of a revision's pods, those with the most rows within the grid, by name; none without the
        column."""
        rows, _ = self._rows(grid)
        times = np.bincount(self.revision[rows], minlength=len(self.revisions))
        seen = {
            each[2]: -int(many)
            for each, many in zip(self.revisions, times, strict=True)
            if each[1] == pod_hash and each[2] and many
        }
        return sorted(sorted(seen, key=lambda pod: (seen[pod], pod))[:MOST_PODS])

    def _rows(self, grid: Grid) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Indexes of the rows within the grid, and their places in it."""
        steps = np.ceil((self.times - grid.start) / STEP_S - 1e-9)
        rows = np.flatnonzero((steps >= 0) & (steps < grid.count))
        return rows, steps[rows].astype(np.int64)

    def _column(self, name: str) -> Array:
        if name not in self.columns:
            known = ", ".join(f"`{one}`" for one in self.columns if one != TIME) or "none"
            raise HistoryFailed(
                f"{self.path}: no column `{name}`; columns of numbers: {known}. "
                "Name one `load` (requests a second) and one after each pattern."
            )
        return self.columns[name]


def _means(values: Array, cell: NDArray[np.intp], count: int) -> Array:
    """Of the values that are there, for each cell."""
    there = ~np.isnan(values)
    total = np.bincount(cell[there], values[there], count).astype(np.float64)
    return _divided(total, np.bincount(cell[there], minlength=count))


def _summed(values: Array, step: NDArray[np.int64], grid: Grid) -> Array:
    there = ~np.isnan(values)
    total = np.bincount(step[there], values[there], grid.count)
    return np.where(np.bincount(step[there], minlength=grid.count) > 0, total, np.nan)


def _averaged(values: Array, load: Array, step: NDArray[np.int64], grid: Grid) -> Array:
    """By load; as if all loads were the same where none is known."""
    there = ~np.isnan(values)
    values, step = values[there], step[there]
    weight = np.clip(np.nan_to_num(load[there]), 0.0, None)
    known = np.bincount(step, weight, grid.count) > 0
    weight = np.where(known[step], weight, 1.0)
    total = np.bincount(step, weight * values, grid.count).astype(np.float64)
    return _divided(total, np.bincount(step, weight, grid.count))


def _divided(total: Array, count: NDArray[Any]) -> Array:
    found: Array = np.divide(total, count, out=np.full(len(total), np.nan), where=count > 0)
    return found


def read_csv(path: str | os.PathLike[str]) -> Table:
    """A header, then rows. Raises HistoryFailed, with file and line, and OSError."""
    where = os.fspath(path)
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return _from_csv(where, file)
    except UnicodeDecodeError as error:
        raise HistoryFailed(f"{where}: not UTF-8 (byte {error.start} of a block).") from None


def _from_csv(path: str, file: IO[str]) -> Table:
    reader = csv.reader(file, strict=True)
    rows = _rows_of(path, reader)
    _, header = next(rows, (1, []))
    header = [name.strip() for name in header]
    _check_header(path, header)
    numbers = {name: array("d") for name in header if name not in _TEXT}
    known: dict[tuple[str, str, str], int] = {}
    revision = array("q")
    while block := list(islice(rows, _BLOCK)):
        lines, fields = zip(*block, strict=True)
        if set(map(len, fields)) != {len(header)}:
            at, found = next((at, len(row)) for at, row in enumerate(fields) if len(row) != len(header))
            raise HistoryFailed(f"{path}:{lines[at]}: {found} fields where the header has {len(header)}.")
        columns = dict(zip(header, zip(*fields, strict=True), strict=True))
        for name, column in numbers.items():
            column.extend(_parsed(path, name, columns[name], lines))
        revision.extend(_revisions(columns, len(lines), known))
    arrays = {name: finite(np.array(column, np.float64)) for name, column in numbers.items()}
    return Table(path, arrays[TIME], tuple(known), np.array(revision, np.intp), arrays, tuple(header))


def _revisions(
    columns: Mapping[str, Sequence[str]], count: int, known: dict[tuple[str, str, str], int]
) -> Iterable[int]:
    """Indexes of version, hash and pod together; new ones are added to ``known``."""
    empty = ("",) * count
    whole = list(zip(*(columns.get(name) or empty for name in (VERSION, HASH, POD)), strict=True))
    index = {
        each: known.setdefault((each[0].strip(), each[1].strip(), each[2].strip()), len(known))
        for each in dict.fromkeys(whole)
    }
    return map(index.__getitem__, whole)


def _rows_of(path: str, reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not blank, and their lines."""
    try:
        for row in reader:
            if row:
                yield reader.line_num, row
    except csv.Error as error:
        raise HistoryFailed(f"{path}:{reader.line_num}: {error}.") from None


def _parsed(path: str, name: str, texts: Sequence[str | None], lines: Sequence[int]) -> Iterable[float]:
    """A column as numbers. Where all are plain numbers, as is usual, that is several times faster."""
    found = _plain(texts)
    if found is None or (name == TIME and not np.all((found >= 0) & (found < LATEST_S))):
        return _one_by_one(path, name, texts, lines)
    return found


def _plain(texts: Sequence[str | None]) -> Array | None:
    """None where something else than a number is among them."""
    given = [text for text in texts if text is not None]
    if len(given) < len(texts) or "_" in "".join(given):  # Python reads 1_0 as ten
        return None
    try:
        return np.array([float(text) for text in given], np.float64)
    except ValueError:
        return None


def _one_by_one(path: str, name: str, texts: Sequence[str | None], lines: Sequence[int]) -> Iterator[float]:
    understood = _time if name == TIME else _value
    for line, text in zip(lines, texts, strict=True):
        try:
            yield understood((text or "").strip())
        except ValueError as error:
            raise HistoryFailed(f"{path}:{line}: column {name!r}: {error}.") from None


def _check_header(path: str, header: Sequence[str]) -> None:
    if not any(header):
        raise HistoryFailed(f"{path}: it is empty; its first line must name the columns.")
    twice = next((name for at, name in enumerate(header) if name in header[:at]), None)
    if twice is not None:
        raise HistoryFailed(f"{path}: two columns are called {twice!r}.")
    if TIME not in header:
        raise HistoryFailed(f"{path}: no column `time` (Unix seconds, or RFC 3339).")


def _value(text: str) -> float:
    """NaN for what is missing, infinities among it."""
    if _NUMBER.fullmatch(text):
        return _finite(float(text))
    if text.lower() in _MISSING:
        return float("nan")
    raise ValueError(f"{text[:80]!r} is no number")


def _finite(value: float) -> float:
    return value if abs(value) < float("inf") else float("nan")


def _time(text: str) -> float:
    if _NUMBER.fullmatch(text):
        seconds = float(text)
        if not 0 <= seconds < LATEST_S:
            raise ValueError(f"{text[:80]!r} is no Unix time in seconds")
        return seconds
    if not _MOMENT.fullmatch(text):
        raise ValueError(f"{text[:80]!r} is neither Unix seconds nor RFC 3339 (2026-11-21T16:45:00Z)")
    moment = datetime.fromisoformat(text.upper())
    seconds = moment.timestamp()
    if seconds < 0:
        raise ValueError(f"{text[:80]!r} is before 1970")
    return seconds


def read_parquet(path: str | os.PathLike[str]) -> Table:
    """Raises HistoryFailed, with file and column, and OSError."""
    where = os.fspath(path)
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise HistoryFailed(f"{where}: {lacking(error, 'Parquet') or error}, or give a CSV.") from None
    with open(path, "rb") as file:
        try:
            source = pyarrow.parquet.ParquetFile(file)
            if source.metadata.num_rows > MOST_ROWS:
                raise HistoryFailed(
                    f"{where}: {source.metadata.num_rows} rows; {MOST_ROWS} are read at most."
                )
            table = source.read()
        except (pyarrow.ArrowException, OSError, OverflowError, ValueError) as error:
            raise HistoryFailed(f"{where}: not Parquet that can be read ({str(error)[:200]}).") from None
    header = list(table.column_names)
    _check_header(where, header)
    texts = {name: _texts(where, name, table) for name in header if name in _TEXT}
    numbers = {name: _numbers(where, name, table[name]) for name in header if name not in _TEXT}
    known: dict[tuple[str, str, str], int] = {}
    found = _revisions(texts, table.num_rows, known)
    revision = np.array(list(found), np.intp)
    return Table(where, numbers[TIME], tuple(known), revision, numbers, tuple(header))


def _texts(path: str, name: str, table: Any) -> list[str]:
    import pyarrow

    if not (pyarrow.types.is_string(table[name].type) or pyarrow.types.is_large_string(table[name].type)):
        raise HistoryFailed(f"{path}: column {name!r} must be text, not {table[name].type}.")
    return [value or "" for value in table[name].to_pylist()]


def _numbers(path: str, name: str, column: Any) -> Array:
    """A column of numbers; the time may be a timestamp with a zone, or text."""
    import pyarrow

    kind = column.type
    is_time = name == TIME
    if is_time and pyarrow.types.is_timestamp(kind) and kind.tz:
        values = column.cast(pyarrow.timestamp("us", kind.tz), safe=False).cast(pyarrow.int64()).to_numpy()
        values = np.asarray(values, np.float64) / 1e6
    elif is_time and pyarrow.types.is_string(kind):
        values = np.array(list(_parsed(path, name, column.to_pylist(), range(1, len(column) + 1))))
    elif pyarrow.types.is_floating(kind) or pyarrow.types.is_integer(kind) or pyarrow.types.is_null(kind):
        values = np.asarray(column.cast(pyarrow.float64(), safe=False).to_numpy(), np.float64)
    else:
        raise HistoryFailed(f"{path}: column {name!r} has {kind}; wanted are numbers{_OR_TIMES[is_time]}.")
    if is_time and not np.all((values >= 0) & (values < LATEST_S)):
        row = int(np.argmin((values >= 0) & (values < LATEST_S)))
        raise HistoryFailed(f"{path}: row {row + 1} has no Unix time in seconds ({values[row]:g}).")
    return finite(values)


_OR_TIMES = {True: ", timestamps with a zone, or RFC 3339 text", False: ""}
