"""The benchmark of the detector runs without its harness, and its bounds and its simulator are what it says.

No figure of the detector is asserted: that is what the benchmark is for.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(scope="module")
def modules() -> Iterator[tuple[ModuleType, ModuleType]]:
    """Results and simulator, as a program in their folder imports them."""
    sys.path.insert(0, str(FOLDER))
    try:
        import detection_results
        import detection_simulator

        yield detection_results, detection_simulator
    finally:
        sys.path.remove(str(FOLDER))


def test_bounds_are_exact(modules: tuple[ModuleType, ModuleType]) -> None:
    results, _ = modules
    assert results.share_bound(0, 300, True) == pytest.approx(1 - 0.05 ** (1 / 300))
    assert results.share_bound(300, 300, False) == pytest.approx(0.05 ** (1 / 300))
    assert results.share_bound(3, 1000, True) > 0.003 > results.share_bound(3, 1000, False)
    assert results.days_bound(0, 10) == pytest.approx(-np.log(0.05) / 10)


def test_a_step_is_what_its_name_says(modules: tuple[ModuleType, ModuleType]) -> None:
    _, simulator = modules
    t0 = 3 * simulator.DAY + 600
    quiet, slower = (simulator.simulate(0, event, t0, 4) for event in ("none", "step+20"))
    assert set(quiet.values) == set(simulator.METRICS)
    before, after = (
        np.nanmedian(slower.values["score"][part]) / np.nanmedian(quiet.values["score"][part])
        for part in (slice(0, t0), slice(t0, None))
    )
    assert before == pytest.approx(1.0, abs=0.01)
    assert after == pytest.approx(1.2, abs=0.02)
    again = simulator.simulate(0, "none", t0, 4)
    np.testing.assert_array_equal(quiet.traffic, again.traffic)


def test_twins_share_the_traffic(modules: tuple[ModuleType, ModuleType]) -> None:
    _, simulator = modules
    stable, canary = simulator.twins(0, "none", 600, 2)
    share = np.nansum(canary.traffic) / (np.nansum(canary.traffic) + np.nansum(stable.traffic))
    assert share == pytest.approx(0.2, abs=0.01)
    assert not np.array_equal(stable.values["p50"], canary.values["p50"])


def test_without_the_harness(tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(FOLDER / "detection.py"),
        "--only",
        "canary,tcpd",
        "--trials",
        "1",
        "--json",
    ]
    environment = {**os.environ, "MODELWAY_DETBENCH": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert {row["source"] for row in found["rows"]} == {"own"}
    assert all(row["of"] > 0 for row in found["rows"])
    assert len(found["skipped"]) == 2
