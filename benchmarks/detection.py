"""How often the detector cries in vain, what it finds, and what it costs.

    python benchmarks/detection.py                      1,000 trials a cell; hours
    python benchmarks/detection.py --trials 200         a first impression; a quarter of it
    python benchmarks/detection.py --only tcpd,speed    release, canary, watch, tcpd, speed, verdict
    python benchmarks/detection.py --quick              does the benchmark itself work?

The same table twice: for the series of the harness that `MODELWAY_DETBENCH` names, where it is there, and for
those of `detection_simulator.py`, which is made by another idea. benchmarks/README.md says what is measured.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported, here or in a process of ours
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runtime"))

import detection_harness as harness
import detection_trials as own
from detection_results import Counts, Results, Row, data, text
from detection_simulator import QUIET
from report import machine

from modelway_runtime import __version__

PARTS = ("release", "canary", "watch", "tcpd", "speed", "verdict")
SOURCES = (harness.SOURCE, own.SOURCE)
PROCESSES = 2
CHUNK = 10
"""Trials of one piece of work: some seconds."""
_HARNESS_EVENTS = {
    "err": ("none", "spikes", "missing", "reset", "surge", "step+100"),
    "": ("none", "spikes", "missing", "reset", "surge", "step+10", "step+20", "var3"),
}
_LIVE = ("p50", "p99", "err", "score")
_SIZES = {10_000: 0.05, 100_000: 0.2}


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work that one process does."""

    source: str
    part: str
    metric: str
    event: str
    first: int
    number: int

    def do(self) -> Counts:
        if self.source == own.SOURCE:
            called = {"release": own.releases, "canary": own.canaries, "watch": own.watching}[self.part]
            return called(self.event, self.first, self.number)
        if self.part == "release":
            return harness.releases(self.metric, self.event, own.MINUTES, self.first, self.number)
        if self.part == "canary":
            return harness.canaries(self.metric, own.MINUTES, self.first, self.number)
        return harness.watching(self.metric, self.first, self.number)


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    head = {
        "modelway": __version__, "machine": machine(), "trials": options.trials, "seed": options.seed,
        "watched": options.watched,
    }  # fmt: skip
    results = Results()
    sources = [one for one in SOURCES if one in options.source]
    if harness.folder() is None and harness.SOURCE in sources:
        sources.remove(harness.SOURCE)
        results.skipped.append("the harness detbench is not there (MODELWAY_DETBENCH names its folder)")
    # Trials by their number: what is interrupted has as many of each kind.
    work = sorted(_work(options, sources), key=lambda one: one.first)
    _do(work, results)
    _single(options.only, results, options.seed)
    print(json.dumps(data(results, head), indent=1) if options.json else "\n".join(text(results, head)))
    return 0


def _work(options: argparse.Namespace, sources: Sequence[str]) -> Iterator[Work]:
    for part, source in [(part, source) for part in ("release", "canary", "watch") for source in sources]:
        if part not in options.only:
            continue
        for metric, event in _cells(source, part):
            whole, at_once = (options.watched, 1) if part == "watch" else (options.trials, CHUNK)
            for done in range(0, whole, at_once):
                number = min(at_once, whole - done)
                # The harness takes two seeds for each quiet trace.
                first = options.seed + (2 * done if part == "watch" else done)
                yield Work(source, part, metric, event, first, number)


def _cells(source: str, part: str) -> Iterator[tuple[str, str]]:
    """Metrics and events: the harness takes one metric, the simulator here makes all of them at once."""
    if source == own.SOURCE:
        quiet = {"release": QUIET, "canary": QUIET[:-1], "watch": ("none",)}[part]
        loud = ("step+20",) if part == "watch" else own.LOUD
        yield from (("", event) for event in (*quiet, *loud))
        return
    for metric in _LIVE if part == "canary" else (*harness.LATENCY, "err"):
        events = _HARNESS_EVENTS.get(metric, _HARNESS_EVENTS[""]) if part == "release" else ("",)
        yield from ((metric, event) for event in events)


def _do(work: Sequence[Work], results: Results) -> None:
    """All of it, in two processes; says on standard error how far it is. An interrupt ends it early."""
    if not work:
        return
    began, done = time.monotonic(), 0
    terminal = sys.stderr.isatty()
    with multiprocessing.get_context("spawn").Pool(PROCESSES, _leave_interrupts) as pool:
        try:
            for counts in pool.imap_unordered(Work.do, work):
                results.add(counts)
                done += 1
                if terminal or done % 20 == 0 or done == len(work):
                    took = time.monotonic() - began
                    left = took / done * (len(work) - done)
                    line = f"{done} of {len(work)}, {took:.0f} s, some {left:.0f} s left "
                    print(line, end="\r" if terminal else "\n", file=sys.stderr, flush=True)
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # while the processes are ended
            results.skipped.append(f"{len(work) - done} of {len(work)} pieces of work: it was interrupted")
    if terminal:
        print(file=sys.stderr)


def _leave_interrupts() -> None:
    """To the process that started this one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _single(only: Sequence[str], results: Results, seed: int) -> None:
    """What is measured in this process alone, when the others are done."""
    if "tcpd" in only:
        if harness.data() is None:
            results.skipped.append(
                "tcpd: the annotated series are not there (data/tcpd-dev beside the harness)"
            )
        else:
            found = harness.annotated()
            for name, key, bar in (("F1", "f1", 0.82), ("covering", "cover", 0.72)):
                what = f"change points of {found['n']} annotated series: {name}"
                results.rows.append(Row(what, "TCPD", found[key], bar, False))
    if "speed" in only:
        if harness.folder() is None:
            results.skipped.append("speed: the harness is not there")
        else:
            for size, taken in harness.speed(tuple(_SIZES)).items():
                what = f"change points of {size:,} points, CPU s"
                results.rows.append(Row(what, "cost", taken, _SIZES[size], True))
    if "verdict" in only:
        usual, first = own.verdict_cpu(seed)
        results.rows.append(Row("a verdict over 8 metrics and 14 days, CPU s", "cost", usual, 0.3, True))
        results.rows.append(Row("the first one of a process, CPU s", "cost", first, None, True))


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", type=_choice(PARTS), default=PARTS, help="parts, by commas (all)")
    parser.add_argument("--source", type=_choice(SOURCES), default=SOURCES, help="detbench, own (both)")
    parser.add_argument("--trials", type=_positive, default=1000, help="of each event and metric (1000)")
    parser.add_argument("--watched", type=_positive, help="quiet traces of each metric (trials / 25)")
    parser.add_argument("--seed", type=_positive, default=100_000, help="the first one (100000)")
    parser.add_argument("--json", action="store_true", help="for programs, with the counts of every cell")
    parser.add_argument("--quick", action="store_true", help="two trials, one trace watched")
    options = parser.parse_args(argv)
    if options.quick:
        options.trials, options.watched = 2, 1
    options.watched = options.watched or max(options.trials // 25, 1)
    return options


def _choice(known: Sequence[str]):  # type: ignore[no-untyped-def]
    def read(named: str) -> tuple[str, ...]:
        chosen = tuple(named.split(","))
        wrong = [one for one in chosen if one not in known]
        if wrong:
            raise argparse.ArgumentTypeError(f"{', '.join(wrong)}: not one of {', '.join(known)}")
        return chosen

    return read


def _positive(named: str) -> int:
    number = int(named)
    if number < 1:
        raise argparse.ArgumentTypeError("at least 1")
    return number


if __name__ == "__main__":
    sys.exit(main())
