"""OpenMetrics text with timestamps, as ``promtool tsdb create-blocks-from openmetrics`` reads it."""

from __future__ import annotations

import os
import re
from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from modelway_runtime.detection.evidence import Array
from modelway_runtime.detection.history import HistoryFailed

LATEST_S = 1e11
"""Later Unix times are of no clock; it tells milliseconds from seconds."""
MAX_LINE_BYTES = 64 * 1024
"""Of one sample; the expressions below remember each label and each escape, to go back over it."""
# Each part begins with a character that the part before it cannot hold: a line that does not match is read
# once. No possessive quantifiers: see docs/decisions/0017.
_NAME = rb"[a-zA-Z_][a-zA-Z0-9_]*"
_VALUE = rb'[^"\\\n]*(?:\\.[^"\\\n]*)*'
_LABELS = rb"\{(?:" + _NAME + rb'="' + _VALUE + rb'",?)*\}'
_SERIES = re.compile(rb"([a-zA-Z_:][a-zA-Z0-9_:]*)(" + _LABELS + rb")?")
_LABEL = re.compile(rb"(" + _NAME + rb')="(' + _VALUE + rb')"')
_LINE = re.compile(_SERIES.pattern + rb" ([^ ]+)(?: ([^ #][^ ]*))?(?: # .*)?", re.DOTALL)
_ESCAPE = re.compile(r"\\(.)", re.DOTALL)
_METADATA = (b"# TYPE ", b"# HELP ", b"# UNIT ")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One series: ``times_ms`` ascend (Unix milliseconds), one value for each."""

    labels: Mapping[str, str]
    times_ms: NDArray[np.int64]
    values: Array


class _Raw(NamedTuple):
    """Samples of one series in the order of the file, and their lines."""

    name: str
    labels: Mapping[str, str]
    seconds: array[float]
    values: array[float]
    lines: array[int]


def read(path: str | os.PathLike[str], metrics: Collection[str]) -> dict[str, list[Recorded]]:
    """The series of these metrics, by metric. Raises HistoryFailed, with file and line, and OSError.

    As promtool does it wants a timestamp on every sample and ``# EOF`` at the end, and takes no second
    value for one time; unlike promtool it sorts what is out of order.
    """
    with open(path, "rb") as file:
        found = _Reading(os.fspath(path), frozenset(metrics)).series(file)
    by_metric: dict[str, list[Recorded]] = {}
    for raw in found:
        by_metric.setdefault(raw.name, []).append(_recorded(raw, os.fspath(path)))
    return by_metric


class _Reading:
    """Of one file: the text of a series is understood once, not on each line."""

    def __init__(self, path: str, metrics: frozenset[str]) -> None:
        self._path = path
        self._metrics = metrics
        self._by_text: dict[bytes, _Raw | None] = {}  # None: of no interest
        self._by_labels: dict[tuple[str, frozenset[tuple[str, str]]], _Raw] = {}

    def series(self, file: IO[bytes]) -> list[_Raw]:
        ended = False
        number = 0
        for number, line in enumerate(file, 1):
            if ended and line.strip():
                raise self._wrong(number, "there is text after `# EOF`")
            if line.startswith(b"#") or not line.strip():
                ended = ended or line.strip() == b"# EOF"
                self._check_comment(number, line)
            else:
                self._sample(number, line)
        if not ended:
            what = f"it does not end in `# EOF` ({number} lines): it is empty, cut off, or not OpenMetrics"
            raise HistoryFailed(f"{self._path}: {what}.")
        return list(self._by_labels.values())

    def _sample(self, number: int, line: bytes) -> None:
        parts = line.rsplit(b" ", 2)
        try:
            raw = self._by_text[parts[0]]
            value, seconds = float(parts[1]), float(parts[2])
        except (KeyError, IndexError, ValueError):  # a new series, an exemplar, or a line that is wrong
            raw, value, seconds = self._slowly(number, line.strip())
        if not 0 <= seconds < LATEST_S:
            raise self._wrong(number, f"the timestamp {seconds:g} is no Unix time in seconds")
        if raw is not None:
            raw.seconds.append(seconds)
            raw.values.append(value)
            raw.lines.append(number)

    def _slowly(self, number: int, line: bytes) -> tuple[_Raw | None, float, float]:
        if len(line) > MAX_LINE_BYTES:
            raise self._wrong(
                number, f"the line has {len(line)} bytes; a sample has {MAX_LINE_BYTES} at most"
            )
        match = _LINE.fullmatch(line)
        if match is None:
            raise self._wrong(number, f'{_shown(line)} is no sample (`name{{label="…"}} value timestamp`)')
        name, labels, value, seconds = match.groups()
        if seconds is None:
            raise self._wrong(number, "the sample has no timestamp; a page that is scraped is no history")
        text = line[: match.end(2) if labels else match.end(1)]
        if text not in self._by_text:
            self._by_text[text] = self._series(number, name.decode(), labels or b"")
        return self._by_text[text], self._number(number, value), self._number(number, seconds)

    def _series(self, number: int, name: str, text: bytes) -> _Raw | None:
        if name not in self._metrics:
            return None
        pairs = _LABEL.findall(text)
        try:
            labels = {key.decode(): _ESCAPE.sub(_unescaped, value.decode()) for key, value in pairs}
        except UnicodeDecodeError:
            raise self._wrong(number, "a label is not UTF-8") from None
        if len(labels) < len(pairs):
            raise self._wrong(number, "a label is there twice")
        labels = {key: value for key, value in labels.items() if value}  # empty is absent
        key = (name, frozenset(labels.items()))
        return self._by_labels.setdefault(key, _Raw(name, labels, array("d"), array("d"), array("q")))

    def _number(self, number: int, text: bytes) -> float:
        try:
            return float(text)
        except ValueError:
            raise self._wrong(number, f"{_shown(text)} is no number") from None

    def _check_comment(self, number: int, line: bytes) -> None:
        if line.strip() and line.strip() != b"# EOF" and not line.startswith(_METADATA):
            raise self._wrong(number, f"{_shown(line.strip())} is neither TYPE, HELP, UNIT nor EOF")

    def _wrong(self, number: int, what: str) -> HistoryFailed:
        return HistoryFailed(f"{self._path}:{number}: {what}.")


def _recorded(raw: _Raw, path: str) -> Recorded:
    times = np.floor(np.frombuffer(raw.seconds, np.float64) * 1000 + 1e-3).astype(np.int64)
    values, lines = np.frombuffer(raw.values, np.float64), np.frombuffer(raw.lines, np.int64)
    order = np.argsort(times, kind="stable")
    times, values, lines = times[order], values[order], lines[order]
    same = times[1:] == times[:-1]
    differ = same & (values[1:] != values[:-1]) & ~(np.isnan(values[1:]) & np.isnan(values[:-1]))
    if differ.any():
        at = int(differ.argmax())
        raise HistoryFailed(
            f"{path}:{lines[at + 1]}: another value of {raw.name} for the time of line {lines[at]}."
        )
    keep = np.concatenate([~same, [True]])
    return Recorded(raw.labels, times[keep], values[keep])


def _unescaped(found: re.Match[str]) -> str:
    return "\n" if found[1] == "n" else found[1]


def _shown(text: bytes) -> str:
    return ascii(text[:80].decode("utf-8", "replace"))
