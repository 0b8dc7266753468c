"""The checks of ``benchmarks/reliability.py``, short: a server is overloaded, reloaded, killed, given damage."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.tools import require_tool

SCRIPT = Path(__file__).resolve().parents[3] / "benchmarks" / "reliability.py"


def run(
    *arguments: str, folder: Path, **environment: str
) -> tuple[subprocess.CompletedProcess[str], list[Any]]:
    """The script and its findings; it leaves nothing in ``folder`` but those."""
    (folder / "temporary").mkdir()
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments, "--json", str(folder / "findings.json")],
        env={**os.environ, "TMPDIR": str(folder / "temporary"), **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "Traceback" not in done.stderr
    left = {path.name for path in (folder / "temporary").iterdir()} - {".ses"}  # that is onnxruntime's own
    assert not left, "the script leaves files behind"
    return done, json.loads((folder / "findings.json").read_text())["findings"]


def kept(*arguments: str, folder: Path) -> dict[str, Any]:
    """The figures of one check whose promises are all kept."""
    done, (finding,) = run(*arguments, folder=folder)
    assert finding["broken"] == []
    assert done.returncode == 0, done.stdout + done.stderr
    assert not finding["skipped"]
    figures: dict[str, Any] = finding["figures"]
    return figures


def test_twice_the_load_is_answered_or_refused_in_time(tmp_path: Path) -> None:
    require_tool("h2load", "nghttp2-client")
    done, (finding,) = run("overload", "--minutes", "0.05", folder=tmp_path)
    figures = finding["figures"]
    # How soon an answer comes is the machine's to say, too, and a test may share it with others.
    assert [what for what in finding["broken"] if not what.startswith("p99 ")] == []
    assert done.returncode == (1 if finding["broken"] else 0)
    assert set(figures["answers"]) <= {"200", "429", "504"}
    assert figures["asked_rps"] == pytest.approx(2 * figures["capacity_rps"], abs=2)
    assert sum(figures["answers"].values()) == pytest.approx(3 * figures["asked_rps"], rel=0.02)
    assert figures["answers"]["200"] > 0
    refused = sum(number for status, number in figures["answers"].items() if status != "200")
    assert refused > 0, "twice the capacity was asked, and nothing was refused"


def test_reloads_under_load_lose_no_request(tmp_path: Path) -> None:
    figures = kept("reloads", "--reloads", "40", folder=tmp_path)
    assert figures["reloads"] == 40
    assert figures["answered"] > 40
    assert figures["failed"] == 0


def test_a_killed_server_comes_back_with_whole_logs_and_its_weights(tmp_path: Path) -> None:
    figures = kept("kill", "--kills", "1", folder=tmp_path)
    assert figures["failed_while_down"] > 0, "nobody noticed that the server was down"
    assert figures["failed_otherwise"] == 0
    assert figures["audit_lines"] > 0


def test_damaged_weights_are_refused_and_the_old_ones_serve_on(tmp_path: Path) -> None:
    figures = kept("flipped", folder=tmp_path)
    assert figures["flips"] >= 16
    assert "sha256:" in figures["message"]


def test_a_server_that_does_not_start_breaks_its_promises(tmp_path: Path) -> None:
    """Every check says so, with the end of the log, and the exit code is 1."""
    broken = tmp_path / "broken" / "modelway_runtime"
    broken.mkdir(parents=True)
    (broken / "__init__.py").write_text("raise SystemExit('nothing works today')")
    done, findings = run("reloads", "kill", "flipped", folder=tmp_path, PYTHONPATH=str(broken.parent))
    assert done.returncode == 1
    assert [finding["check"] for finding in findings] == ["reloads", "kill", "flipped"]
    for finding in findings:
        assert "nothing works today" in finding["broken"][0]


def test_without_h2load_overload_is_skipped_and_says_so(tmp_path: Path) -> None:
    done, (finding,) = run("overload", folder=tmp_path, PATH=str(tmp_path))
    assert done.returncode == 0
    assert "nghttp2-client" in finding["skipped"]
    assert "overload: skipped" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("everything",), "there is no check 'everything'"),
        (("kill", "--kills", "0"), "take numbers above 0"),
        (("overload", "--minutes", "0"), "take numbers above 0"),
    ],
)
def test_wrong_arguments_are_refused(arguments: tuple[str, ...], said: str) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 2
    assert said in done.stderr
