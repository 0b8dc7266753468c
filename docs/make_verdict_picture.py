"""Draws ``docs/pictures/verdict.svg``: what the detector sees around a release that made a model slower.

The days are made up (with a seed, so that the picture is always the same); the verdict on them is the
detector's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from modelway_runtime.detection import targets
from modelway_runtime.detection.detector import Look
from modelway_runtime.detection.report import plot

ROOT = Path(__file__).resolve().parents[1]
END = datetime(2026, 11, 20, 15, 30, tzinfo=UTC)
DAYS, AFTER, SLOWER = 12, 90, 1.18


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "ranker.csv"
        file.write_text("\n".join(rows()) + "\n", encoding="utf-8")
        target = targets.of_laptop("prod", "ranker", "search", None, None, file)
        look, _ = targets.look(target, None, 86400.0)
    target_file = ROOT / "docs" / "pictures" / "verdict.svg"
    target_file.write_text(drawn(look), encoding="utf-8")


def drawn(look: Look) -> str:
    plots = [one for one in look.judgement.plots if one.name == "latency-p50"]
    text = plot.svg(plots, look.verdict, description="The median latency rises with the release.")
    return "\n".join(line.rstrip() for line in text.splitlines()) + "\n"


def rows() -> Sequence[str]:
    """A minute each: load and latency follow the day, and noise stays for some minutes."""
    random = np.random.default_rng(4)
    count = DAYS * 1440
    minute = np.arange(count)
    day = np.sin(2 * np.pi * (minute / 1440 + 0.35))
    load = random.poisson(60 * 40 * (1 + 0.35 * day)) / 60
    wander = smoothed(random.standard_normal(count), 0.97)
    slower = np.where(minute >= count - AFTER, SLOWER, 1.0)
    median = 0.0118 * np.exp(0.06 * day + 0.02 * wander + 0.015 * random.standard_normal(count)) * slower
    failed = random.binomial((60 * load).astype(int), 0.004) / np.maximum(60 * load, 1)
    start = END - timedelta(minutes=count)
    lines = ["time,version,load,latency-p50,latency-p99,errors,throughput,output-value"]
    for at in range(count):
        version = "46.0.0" if at < count - AFTER else "46.1.0"
        numbers = (load[at], median[at], 2.4 * median[at], failed[at], load[at], 0.5)
        when = f"{start + timedelta(minutes=at):%Y-%m-%dT%H:%M:%SZ}"
        lines.append(",".join([when, version, *(f"{number:.6g}" for number in numbers)]))
    return lines


def smoothed(noise: np.ndarray, memory: float) -> np.ndarray:
    """Of variance one: a first-order autoregression."""
    level, levels = 0.0, []
    for one in noise.tolist():
        level = memory * level + (1 - memory**2) ** 0.5 * one
        levels.append(level)
    return np.array(levels)


if __name__ == "__main__":
    main()
