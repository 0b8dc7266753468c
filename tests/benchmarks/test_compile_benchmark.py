"""The benchmark of the compiler runs, counts what it measures, and refuses figures that mean nothing.

No figure is asserted: a test may run on a busy machine.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

BENCHMARK = Path(__file__).resolve().parents[2] / "benchmarks" / "compile.py"


def bench(*arguments: str, temporary: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run the benchmark; its temporary files go below ``temporary``."""
    inherited = {name: value for name, value in os.environ.items() if name != "MODELWAY_PEERS"}
    return subprocess.run(
        [sys.executable, str(BENCHMARK), *arguments],
        env={**inherited, "TMPDIR": str(temporary), **environment},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def fake_peer(folder: Path, package: str, printed: str) -> Path:
    """A folder with an environment that claims to have ``package``, whose programs print ``printed``."""
    python = folder / "fake" / "bin" / "python"
    python.parent.mkdir(parents=True)
    (folder / "printed").write_text(printed)
    cases = f"-c*{package}*) echo 1.0 ;; -c*) exit 1 ;; *) cat '{folder}/printed' ;;"
    python.write_text(f'#!/bin/sh\ncase "$*" in {cases} esac\n')
    python.chmod(0o755)
    return folder


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("quick")
    done = bench("--quick", "--json", temporary=folder)
    assert done.returncode == 0, done.stderr
    assert not list(folder.iterdir()), "the benchmark leaves files behind"
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_a_model_with_its_alert_becomes_nine_objects_or_more(quick: dict[str, Any]) -> None:
    workload = quick["workload"]
    assert workload["objects"] >= 9
    assert workload["objects"] == len(workload["kinds"])
    assert {"Deployment", "PrometheusRule", "PodMonitor", "NetworkPolicy"} <= set(workload["kinds"])
    assert 14 <= workload["kb"] <= 28


def test_every_case_has_its_figures(quick: dict[str, Any]) -> None:
    cases = {(one["subject"], one["case"], one["size"]): one for one in quick["measurements"]}
    assert {
        ("modelway", "--version", 0),
        ("modelway", "check", 10),
        ("modelway", "compile", 10),
        ("modelway", "create", 10),
        ("Python", "write", 10),
    } <= cases.keys()
    for figures in cases.values():
        assert figures["runs"] == 1
        assert 0 < figures["cpu_min_s"] <= figures["cpu_s"] <= figures["cpu_max_s"]
        assert figures["wall_s"] > 0
        assert figures["peak_mb"] > 5


def test_the_floor_writes_as_many_files_as_modelway(quick: dict[str, Any]) -> None:
    made = {one["case"]: one["files"] for one in quick["measurements"] if "files" in one}
    assert made["create"] == made["write"] >= 10 * quick["workload"]["objects"]


def test_the_machine_and_the_bars_are_named(quick: dict[str, Any]) -> None:
    assert quick["machine"].keys() == {"processor", "cores", "system", "python", "date", "load"}
    assert all(quick["machine"][name] for name in ("processor", "cores", "system", "python", "date"))
    start = next(bar for bar in quick["bars"] if bar["what"] == "start-up, CPU")
    assert start["met"] == (start["value"] <= start["limit"])
    assert start["margin"] == pytest.approx(1 - start["value"] / start["limit"])


def test_the_table_says_the_same(tmp_path: Path) -> None:
    done = bench("--quick", temporary=tmp_path)
    assert done.returncode == 0, done.stderr
    for words in ("9 objects", "check, up to date", "the floor", "start-up, CPU", "jsonnet: "):
        assert words in done.stdout
    assert "measuring modelway: check, 10 models" in done.stderr


def test_a_peer_that_makes_other_objects_is_refused(tmp_path: Path) -> None:
    peers = fake_peer(tmp_path / "peers", "rjsonnet", "[]")
    (tmp_path / "temporary").mkdir()
    done = bench("--quick", "--peers", str(peers), temporary=tmp_path / "temporary")
    assert done.returncode == 1
    assert "jsonnet lacks 90 objects" in done.stderr
    assert not list((tmp_path / "temporary").iterdir())


def test_without_modelway_it_says_so(tmp_path: Path) -> None:
    (tmp_path / "broken" / "modelway").mkdir(parents=True)
    (tmp_path / "broken" / "modelway" / "__init__.py").write_text("raise ImportError('nothing here')")
    done = bench("--quick", temporary=tmp_path, PYTHONPATH=str(tmp_path / "broken"))
    assert done.returncode == 1
    assert "cannot run modelway: ImportError: nothing here" in done.stderr
    assert "pip install -e ." in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--sizes", "ten"), "not 'ten'"),
        (("--sizes", "0"), "above 0"),
        (("--runs", "0"), "above 0"),
        (("--peers", "no-such-folder"), "there is no folder"),
    ],
)
def test_wrong_options_are_a_usage_error(arguments: tuple[str, ...], said: str, tmp_path: Path) -> None:
    done = bench(*arguments, temporary=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
