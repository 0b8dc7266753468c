"""Whole processes: how long they take, how much CPU, how much memory; medians of several runs."""

from __future__ import annotations

import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LAUNCHER = Path(__file__).resolve().with_name("launch.py")
TIMEOUT_S = 900
SHOWN = 2000  # characters of a failed program's standard error


class FailedError(Exception):
    """A measured program failed; its figures would mean nothing."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run. ``cpu_s`` is that of the process tree, ``peak_mb`` that of its largest process."""

    wall_s: float
    cpu_s: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class Figures:
    """Medians over the runs, and how far the CPU seconds were apart."""

    cpu_s: float
    cpu_min_s: float
    cpu_max_s: float
    wall_s: float
    peak_mb: float
    runs: int


@dataclass(frozen=True, slots=True)
class Program:
    """A command, where it runs, and the file that takes its standard output."""

    command: Sequence[str]
    folder: Path
    output: Path
    environment: Mapping[str, str]

    def run(self) -> Run:
        """Run it once. Raises FailedError for an exit code other than 0."""
        launcher = subprocess.Popen(
            [sys.executable, "-I", "-S", str(LAUNCHER), str(self.output), *self.command],
            cwd=self.folder,
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            printed, _ = launcher.communicate(timeout=TIMEOUT_S)
        except BaseException as stopped:
            os.killpg(launcher.pid, signal.SIGKILL)
            launcher.wait()
            if isinstance(stopped, subprocess.TimeoutExpired):
                raise FailedError(f"{self._shown()} took more than {TIMEOUT_S} s") from None
            raise
        if launcher.returncode:
            raise FailedError(f"{self._shown()} cannot be started")
        code, wall, cpu, peak = printed.split()
        if int(code):
            raise FailedError(f"{self._shown()} ended with {code}:\n{self._said()}")
        return Run(float(wall), float(cpu), int(peak) / 1e6)

    def measure(self, runs: int, warm_ups: int = 1, before: Callable[[], None] | None = None) -> Figures:
        """Medians of ``runs`` runs after the warm-ups; ``before`` is called before each, untimed."""
        taken = []
        for number in range(warm_ups + runs):
            if before:
                before()
            run = self.run()
            if number >= warm_ups:
                taken.append(run)
        cpu = [run.cpu_s for run in taken]
        return Figures(
            cpu_s=statistics.median(cpu),
            cpu_min_s=min(cpu),
            cpu_max_s=max(cpu),
            wall_s=statistics.median(run.wall_s for run in taken),
            peak_mb=max(run.peak_mb for run in taken),
            runs=runs,
        )

    def _shown(self) -> str:
        return " ".join(self.command)[:SHOWN]

    def _said(self) -> str:
        for stream in (Path(f"{self.output}.err"), self.output):
            if said := "\n".join(
                line.strip() for line in stream.read_text(errors="replace").splitlines()
            ).strip():
                return said[-SHOWN:]
        return "nothing"
