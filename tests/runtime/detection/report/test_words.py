from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from modelway_runtime.detection import sanitise
from modelway_runtime.detection.report import words
from modelway_runtime.detection.report.sparkline import shortened, sparkline
from modelway_runtime.detection.verdict import Unit
from tests.runtime.detection.report.examples import metric, regressed, verdict

SCHEMA = Path(__file__).parents[4] / "policies" / "schemas" / "verdict-v1.json"


@pytest.mark.parametrize(
    ("number", "unit", "written"),
    [
        (0.041, "s", "41 ms"),
        (0.0412345, "s", "41.2 ms"),
        (1.25, "s", "1.25 s"),
        (0.99999, "s", "1 s"),
        (0.0000021, "s", "2.1 µs"),
        (0.0, "s", "0 s"),
        (-0.011, "s", "-11 ms"),
        (3.2e9, "bytes", "2.98 GiB"),
        (512.0, "bytes", "512 B"),
        (0.0, "bytes", "0 B"),
        (0.0004, "ratio", "0.04 %"),
        (0.63, "ratio", "63 %"),
        (1234.5, "1/s", "1,234/s"),
        (0.4126, "1", "0.413"),
        (1.5e-9, "1", "1.5e-09"),
        (4e12, "1", "4e+12"),
        (None, "s", "–"),
        (math.nan, "s", "–"),
        (math.inf, "1", "–"),
    ],
)
def test_values(number: float | None, unit: Unit, written: str) -> None:
    assert words.value(number, unit) == written


@pytest.mark.parametrize(
    ("share", "written"),
    [
        (0.268, "+26.8 %"),
        (-0.021, "-2.1 %"),
        (0.0, "0 %"),
        (-0.0, "0 %"),
        (12.0, "+1,200 %"),
        (0.0004, "+0.04 %"),
    ],
)
def test_percentages(share: float, written: str) -> None:
    assert words.percent(share, signed=True) == written


@pytest.mark.parametrize(
    ("p", "written"), [(0.0021, "0.0021"), (0.00001, "< 0.0001"), (0.31, "0.31"), (1.0, "1.00"), (None, "–")]
)
def test_p(p: float | None, written: str) -> None:
    assert words.probability(p) == written


@given(st.floats(allow_nan=True, allow_infinity=True), st.sampled_from(["s", "1/s", "bytes", "ratio", "1"]))
def test_a_value_is_near_what_is_written(number: float, unit: Unit) -> None:
    written = words.value(number, unit)
    if not abs(number) < 1e300:
        assert written == words.UNKNOWN
        return
    factor, _ = words.scale(unit, number)
    shown = float(re.match(r"[-+0-9.,e]+", written)[0].replace(",", ""))  # type: ignore[index]
    assert shown * factor == pytest.approx(number, rel=0.006, abs=1e-299)


def test_a_window_within_a_day_says_the_day_once() -> None:
    span = metric("x", "pending", 1.0, 0.0).windows
    assert words.window(span.before) == "2026-11-21 06:00 to 10:00 UTC"
    assert words.window(span.history) == "2026-11-07 10:00 to 2026-11-21 06:00 UTC"
    assert words.time(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)) == "2026-01-02 03:04:05 UTC"


def test_the_worst_comes_first() -> None:
    order = [(one.name, one.test) for one in words.ranked(regressed()[0])]
    assert order[:4] == [
        ("latency-p99", "spread"),
        ("latency-p99", "level"),
        ("throughput", "level"),
        ("errors", "level"),
    ]


def test_the_sentence_names_the_regression_that_is_largest_against_its_threshold() -> None:
    small = metric("a", "regressed", 1.0, 0.5, threshold=0.4)
    large = metric("b", "regressed", 1.0, 0.2, threshold=0.05)
    sentence = words.headline(verdict("regressed", (small, large)), lambda name: f"<{name}>")
    assert (
        sentence
        == "<ranker> <46.1.0> in <prod> got worse: <b> rose from 1 s to 1.2 s (+20 %) after the release, and 1 more metric got worse."
    )


@given(st.text())
def test_what_does_not_print_is_escaped(text: str) -> None:
    assert sanitise.visible(text).isprintable()
    assert len(sanitise.name(text)) <= sanitise.LONGEST_NAME


class TestSparkline:
    pattern = re.compile(
        json.loads(SCHEMA.read_text())["$defs"]["metric"]["properties"]["sparkline"]["pattern"]
    )

    @pytest.mark.parametrize(
        ("values", "line"),
        [
            ([], ""),
            ([math.nan, math.nan], ""),
            ([math.inf], ""),
            ([5.0], "▄"),
            ([3, 3, math.nan, 3], "▄▄ ▄"),
            ([0, 1, 2, 3, 4, 5, 6, 7], "▁▂▃▄▅▆▇█"),
            ([-1e308, 1e308], "▁█"),
            ([7, math.nan, 0], "█ ▁"),
            ([0.0, 0.0], "▄▄"),
        ],
    )
    def test_lines(self, values: list[float], line: str) -> None:
        assert sparkline(values) == line

    def test_many_values_become_medians(self) -> None:
        steps = np.repeat([0.0, 1.0], 5000)
        steps[77] = 1e9
        line = sparkline(steps)
        assert set(line[:30]) == {"▁"}
        assert set(line[30:]) == {"█"}

    @given(st.lists(st.floats(), max_size=200), st.integers(1, 60))
    @example([1.79e308, 1.79e308], 1)
    @example([1.79e308, -1.79e308, -1.79e308], 2)
    @example([5e-324, 0.0], 1)
    def test_fits_the_schema(self, values: list[float], width: int) -> None:
        line = sparkline(values, width)
        assert self.pattern.match(line)
        assert len(line) <= width
        assert bool(line) == any(map(math.isfinite, values))
        if len(values) <= width and line:
            assert [char == " " for char in line] == [not math.isfinite(value) for value in values]

    def test_shortened(self) -> None:
        assert shortened("▁▁▁▁████", 4) == "▁▁██"
        assert shortened("▁<b>█", 60) == "▁   █"
        assert len(shortened("▁" * 61, 20)) <= 20
