"""The largest numbers that there are: pictures leave them out or scale them, and none overflows."""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

import numpy as np
import pytest

from modelway_runtime.detection.report import mermaid
from modelway_runtime.detection.report import plot as pictures
from modelway_runtime.detection.report.sparkline import BARS, sparkline
from tests.runtime.detection.report.examples import canary, plot, regressed

TOP = 1.79e308
MINUTES = np.arange(420)
HUGE = {
    "all": np.full(420, TOP),
    "all below zero": np.full(420, -TOP),
    "both signs in turn": np.where(MINUTES % 2, TOP, -TOP),
    "two levels": np.where(MINUTES < 210, TOP, -TOP),
    "some": np.where(MINUTES % 3 == 0, TOP, 1.0),
}


@pytest.mark.parametrize("name", HUGE)
@pytest.mark.parametrize("width", [1, 2, 60, 420, 500])
def test_a_sparkline(name: str, width: int) -> None:
    line = sparkline(HUGE[name], width)
    assert set(line) <= set(BARS)
    assert len(line) in (min(width, 420), -(-420 // -(-420 // width)))


@pytest.mark.parametrize("unit", ["1", "s", "bytes", "ratio", "1/s"])
@pytest.mark.parametrize("name", HUGE)
def test_a_picture(name: str, unit: str) -> None:
    values = HUGE[name]
    plotted = plot("m", unit, values=values, expected=values[::-1], low=-values, high=values, stable=values)
    assert ET.fromstring(pictures.svg((plotted,))).tag.endswith("svg")


@pytest.mark.parametrize("unit", ["1", "s", "bytes", "ratio", "1/s"])
@pytest.mark.parametrize("name", HUGE)
def test_a_chart(name: str, unit: str) -> None:
    for verdict, _ in (regressed(), canary()):
        metric = verdict.metrics[0]
        values = HUGE[name]
        mild = plot(metric.name, unit).values
        for plotted in (
            plot(metric.name, unit, values=values, expected=values, stable=values),
            plot(metric.name, unit, values=mild, expected=values, stable=values),
        ):
            chart = mermaid.chart(verdict, metric, plotted)
            source = chart.source if chart else ""
            assert not re.search(r"\b(nan|inf)\b|\d{100}", source)
        assert source, "the values that can be drawn are drawn"
