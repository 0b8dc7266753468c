"""Results for people (a table) and for programs (JSON), with the machine they were taken on."""

from __future__ import annotations

import os
import platform
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from textwrap import wrap
from typing import Any

from results import CASES, CHECK, Results, Verdict, verdicts


def machine() -> dict[str, Any]:
    """Where and when figures are taken, and how busy it is there."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d"),
        "load": round(os.getloadavg()[0], 2),
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(models, platform.machine())


def data(results: Results, head: dict[str, Any]) -> dict[str, Any]:
    """The results as plain values; ``head`` comes first."""
    return {
        **head,
        "workload": results.workload,
        "measurements": [
            {"subject": row.subject, "case": row.case, "size": row.size, **asdict(row.figures)}
            | ({"files": row.files, "ms_per_file": row.ms_per_file} if row.files else {})
            for row in results.rows
        ],
        "bars": [asdict(one) | {"met": one.met, "margin": one.margin} for one in verdicts(results)],
        "peers": {one.peer.name: f"{one.peer.package} {one.version}" for one in results.installed}
        | {peer.name: None for peer in results.missing},
    }


def text(results: Results, head: dict[str, Any]) -> Iterator[str]:
    """The results as lines."""
    where, work = head["machine"], results.workload
    counts = Counter(work["kinds"])
    kinds = ", ".join(kind if count == 1 else f"{count} {kind}s" for kind, count in counts.items())
    yield f"modelway {head['modelway']}, Python {where['python']}, {where['date']}"
    yield f"{where['processor']}, {where['cores']} cores, {where['system']}, load {where['load']} before"
    become = f"{work['objects']} objects of {work['kb']} KB, {work['lines']} lines: {kinds}."
    yield from wrap(
        f"A model with its alert is {work['spec_lines']} lines of specs that become {become}", 100
    )
    yield f"Whole processes, medians of {head['runs']}; CPU of the process tree, MB of its largest process"
    yield ""
    yield from _table(results)
    yield ""
    yield f"{'bar':36}{'at most':>12}{'measured':>12}"
    yield from map(_verdict, verdicts(results))
    yield ""
    for one in results.installed:
        yield f"{one.peer.name}: {one.peer.what}; {one.peer.package} {one.version}"
    for peer in results.missing:
        yield f"{peer.name}: not measured, {peer.package} is not installed (see --peers)"


def _table(results: Results) -> Iterator[str]:
    yield f"{'':44}{'N':>6}{'CPU s':>9}{'wall s':>9}{'MB':>6}{'ms a file':>11}{'ours : its CPU':>16}"
    for row in results.rows:
        figures, ours = row.figures, results.figures(CHECK, row.size)
        each = "" if row.ms_per_file is None else f"{row.ms_per_file:.2f}"
        ratio = f"{ours.cpu_s / figures.cpu_s:.2f}" if ours and row in results.peers(row.size) else ""
        name = f"{row.subject:14}{CASES.get(row.case, row.case):30}{row.size or '':>6}"
        took = f"{figures.cpu_s:9.3f}{figures.wall_s:9.3f}{figures.peak_mb:6.0f}"
        yield f"{name}{took}{each:>11}{ratio:>16}".rstrip()


def _verdict(one: Verdict) -> str:
    word, side = ("met", "below") if one.met else ("MISSED", "above")
    aim = "" if one.aim is None else f"; the aim, {one.aim:g}, is {'' if one.value <= one.aim else 'not '}met"
    limit, value = f"{one.limit:.3g} {one.unit}", f"{one.value:.3g} {one.unit}"
    return f"{one.what:36}{limit:>12}{value:>12}  {word}, {abs(one.margin):.0%} {side}{aim}"
