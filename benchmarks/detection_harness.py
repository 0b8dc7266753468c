"""The harness `detbench`, where it is there: its own commands are called, and their counts read."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from detection_results import Cell, Counts

SOURCE = "detbench"
ROOT = Path(__file__).resolve().parents[1]
LATENCY = ("p50", "p99", "gpu", "score")
QUIET = ("none", "spikes", "missing", "reset", "surge")
_YARDSTICK = "detection_yardstick"


def folder() -> Path | None:
    """Where it lies: as MODELWAY_DETBENCH says, or beside the repository; None where it is not."""
    named = os.environ.get("MODELWAY_DETBENCH")
    found = Path(named) if named else ROOT.parent / "shared" / "bench" / "detect"
    return found if (found / "detbench" / "__init__.py").exists() else None


def data() -> Path | None:
    """The series that people annotated; None where they are not."""
    at = folder()
    found = at.parents[1] / "data" / "tcpd-dev" if at else None
    return found if found and found.exists() else None


def releases(metric: str, event: str, minutes: Sequence[int], first: int, number: int) -> Counts:
    judged = ["-j", f"{_YARDSTICK}:comment", "-j", f"{_YARDSTICK}:gate"]
    found = _call("rollout", [*judged, *_trials(metric, minutes, first, number), "--events", event])
    return {
        Cell(SOURCE, "release", setting, event, int(late), metric, ""): (hits, of)
        for setting in ("comment", "gate")
        for late, (hits, of) in found[setting][metric][event].items()
    }


def canaries(metric: str, minutes: Sequence[int], first: int, number: int) -> Counts:
    """All events of its list: it takes no choice."""
    found = _call("canary", ["-j", f"{_YARDSTICK}:canary", *_trials(metric, minutes, first, number)])
    return {
        Cell(SOURCE, "canary", "gate", event, int(late), metric, ""): (hits, of)
        for event, late_ones in found["canary"][metric].items()
        for late, (hits, of) in late_ones.items()
    }


def watching(metric: str, first: int, number: int) -> Counts:
    """``number`` quiet weeks, and as many or more days of each other event; it takes two seeds for each."""
    options = ["-m", f"{_YARDSTICK}:monitor", "--metrics", metric]
    found = _call("online", [*options, "--seeds", str(number), "--seed", str(first)])
    counts: Counts = {}
    for event, seen in found[f"{_YARDSTICK}:monitor"][metric].items():
        if event in QUIET:
            counts[Cell(SOURCE, "watch", "comment", event, 0, metric, "")] = (int(seen[0]), int(seen[1]))
            continue
        for minutes in (60, 180):
            hits = sum(delay is not None and delay <= minutes for delay in seen)
            counts[Cell(SOURCE, "watch", "comment", event, minutes, metric, "")] = (hits, len(seen))
    return counts


def annotated() -> dict[str, Any]:
    """F1, covering and the rest over the annotated series."""
    found = _call("__main__", ["tcpd", "--data", str(data()), "-d", f"{_YARDSTICK}:detect"])
    summary: dict[str, Any] = found[f"{_YARDSTICK}:detect"]["summary"]
    return summary


def speed(sizes: Sequence[int]) -> dict[int, float]:
    """CPU seconds by the number of points."""
    named = ",".join(map(str, sizes))
    found = _call("__main__", ["speed", "-d", f"{_YARDSTICK}:detect", "--sizes", named])
    return {int(size): one["cpu_seconds"] for size, one in found[f"{_YARDSTICK}:detect"].items()}


def _trials(metric: str, minutes: Sequence[int], first: int, number: int) -> list[str]:
    late = ",".join(map(str, minutes))
    return ["--metrics", metric, "--minutes", late, "--trials", str(number), "--seed", str(first)]


def _call(command: str, arguments: Sequence[str]) -> Any:
    """What a command writes with ``--out``; what it prints is kept quiet."""
    at = folder()
    assert at is not None, "only where the harness is"
    for path in (str(at), str(ROOT / "benchmarks")):
        if path not in sys.path:
            sys.path.insert(0, path)
    main = importlib.import_module(f"detbench.{command}").main
    with tempfile.TemporaryDirectory() as kept, contextlib.redirect_stdout(io.StringIO()):
        out = Path(kept) / "found.json"
        main([*arguments, "--out", str(out)])
        return json.loads(out.read_text("utf-8"))
