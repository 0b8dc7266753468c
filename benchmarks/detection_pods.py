"""Whether a canary is judged by pods: false failures and power where pods of one version differ.

    python benchmarks/detection_pods.py                 100 canaries of each kind; half an hour
    python benchmarks/detection_pods.py --quick         two of each: does the benchmark itself work?
    python benchmarks/detection_pods.py --trials 300 --json

A trial is one canary with five metrics, at which the gate looks nine times within an hour. Each pod has a
factor of its own for each metric, log-normal with the standard deviation of its row, for as long as it runs.
It is false if any look says ``failure`` though nothing but pods differ.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

os.environ["OPENBLAS_NUM_THREADS"] = "1"  # before numpy is imported, here or in a process of ours
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "runtime"))

import numpy as np
from report import machine
from scipy import stats
from scipy.signal import lfilter
from scipy.special import ndtr

from modelway_runtime.detection import measuring
from modelway_runtime.detection.evidence import Array, Evidence
from modelway_runtime.detection.history import STEP_S
from modelway_runtime.detection.judge import judge
from modelway_runtime.detection.measuring import Answer, Grid
from modelway_runtime.detection.promql import Mean, Query, Rate, Ratio
from modelway_runtime.detection.settings import Pattern, Watched
from modelway_runtime.detection.verdict import Rollout, moment

SPREADS = (0.0, 0.03, 0.06, 0.10)
STABLE, CANARY = (3, 4, 6, 8), (1, 2)
EFFECTS = (0.0, 0.10, 0.20, 0.50)
LOOKS = (12, 15, 20, 25, 30, 31, 32, 45, 60)
START = 1_767_571_200.0
HASHES = ("canary", "stable")
BOUNDS = (0.005, 0.01, 0.02, 0.03, 0.04, 0.06, 0.08, 0.12, 0.2, 0.4, 1.0)
VALUES = tuple(np.linspace(0.1, 0.9, 9).round(1).tolist())
_REQUESTS = 600.0
"""A minute and pod."""
_SHARES = {"errors": 0.2}


@dataclass(frozen=True, slots=True)
class Kind:
    """What is tried; ``effect`` is on all metrics of the canary."""

    spread: float
    stable: int
    canary: int
    effect: float


@dataclass(frozen=True, slots=True)
class Measures:
    """One pod by the minute: requests and failures a second, buckets of latency and of values, bytes."""

    requests: Array
    failed: Array
    latency: Array
    values: Array
    memory: Array


def pattern(metric: Any, quantile: float | None = None) -> Pattern:
    return Pattern(
        metric=metric,
        quantile=quantile,
        worse="both" if metric == "output_value" else "up",
        minimum_effect={"error_ratio": 0.2, "output_value": 0.1}.get(metric, 0.05),
        window_s=3600.0,
        sensitivity="low",
    )


PATTERNS = {
    "p50": pattern("latency", 0.5),
    "p95": pattern("latency", 0.95),
    "errors": pattern("error_ratio"),
    "memory": pattern("memory"),
    "scores": pattern("output_value"),
}
WATCHED = Watched(
    namespace="search-prod",
    team="search",
    model="ranker",
    job="ranker",
    workload="Rollout",
    standby=None,
    patterns=PATTERNS,
    severity="warning",
    response=("notify",),
)


def outcomes(kind: Kind, seed: int) -> list[str]:
    """Of the looks at one canary."""
    random = np.random.default_rng([seed, kind.stable, kind.canary, round(1000 * kind.spread)])
    minutes = LOOKS[-1]
    world = np.exp(_wander(random, minutes, 0.97, 0.05)), np.exp(_wander(random, minutes, 0.9, 0.1))
    pods = {
        "stable": [_pod(random, world, kind.spread, 1.0) for _ in range(kind.stable)],
        "canary": [_pod(random, world, kind.spread, 1.0 + kind.effect) for _ in range(kind.canary)],
    }

    def ask(queries: Sequence[Query], grid: Grid) -> Mapping[Query, Answer]:
        return {query: _answer(query, pods, grid.count) for query in queries}

    found = []
    for look in LOOKS:
        now = START + STEP_S * look
        load, stable, measured = measuring.canary(
            ask, WATCHED, tuple(PATTERNS), Grid.within(START, now), 60.0, HASHES
        )
        evidence = Evidence(
            environment="prod",
            team="search",
            namespace="search-prod",
            model="ranker",
            severity="warning",
            comparison="canary",
            sensitivity="low",
            now=now,
            rollout=Rollout(
                namespace="search-prod", model="ranker", version="2", hash="canary", previous_hash="stable",
                started_at=moment(START),
            ),
            other_rollouts=(),
            load=load,
            measured=measured,
            stable_load=stable,
        )  # fmt: skip
        found.append(judge(evidence).verdict.outcome)
    return found


def _pod(random: np.random.Generator, world: tuple[Array, Array], spread: float, factor: float) -> Measures:
    slow, busy = world
    own = factor * np.exp(random.normal(0.0, spread, 4))
    requests = random.poisson(_REQUESTS * busy * random.gamma(200, 1 / 200, len(busy)))
    middle = 0.03 * slow * own[0] * np.exp(_wander(random, len(busy), 0.5, 0.01))
    failed = random.binomial(requests, np.clip(0.01 * own[1], 0.0, 1.0))
    return Measures(
        requests / STEP_S,
        failed / STEP_S,
        _dealt(random, requests, np.log(np.array(BOUNDS) / middle[:, None]) / 0.4),
        _dealt(random, requests, (np.array(VALUES) - 0.4 * own[2]) / 0.2 + np.zeros((len(busy), 1))),
        1e9 * own[3] * (1 + 0.005 * random.standard_normal(len(busy))),
    )


def _wander(random: np.random.Generator, number: int, memory: float, deviation: float) -> Array:
    new = random.standard_normal(number + 200) * deviation * math.sqrt(1 - memory * memory)
    return np.asarray(lfilter([1.0], [1.0, -memory], new)[200:])


def _dealt(random: np.random.Generator, many: Array, away: Array) -> Array:
    """New requests at or below each bound, the last column all of them."""
    upto = np.column_stack([ndtr(away), np.ones(len(away))])
    shares = np.maximum(np.diff(upto, axis=1, prepend=0.0), 0.0)
    return np.cumsum(random.multinomial(many, shares / shares.sum(axis=1, keepdims=True)), axis=1)


def _answer(query: Query, pods: Mapping[str, Sequence[Measures]], count: int) -> Answer:
    """What Prometheus would say, by pod."""
    text = str(query)
    of = pods["canary" if '"canary"' in text else "stable"]
    answer: dict[tuple[str, ...], Array] = {}
    for index, pod in enumerate(of):
        name = f"pod-{index}"
        if isinstance(query, Ratio):
            answer[name,] = (pod.failed / np.maximum(pod.requests, 1e-9))[:count]
        elif isinstance(query, Mean):
            answer[name,] = pod.memory[:count]
        elif isinstance(query, Rate) and "le" in query.by:
            value = "output_value" in text
            table, bounds = (pod.values, VALUES) if value else (pod.latency, BOUNDS)
            for column, bound in enumerate((*bounds, math.inf)):
                answer["+Inf" if bound == math.inf else repr(bound), name] = table[:count, column].astype(
                    float
                )
        elif isinstance(query, Rate) and query.by == ("pod",):
            answer[name,] = pod.requests[:count]
    return answer


def _do(work: tuple[Kind, int]) -> tuple[Kind, bool, bool]:
    """Whether any look, and whether the one after half an hour, was a failure."""
    kind, seed = work
    found = outcomes(kind, seed)
    return kind, "failure" in found, found[LOOKS.index(30)] == "failure"


def main(argv: Sequence[str] | None = None) -> int:
    options = _options(argv)
    kinds = [Kind(*each) for each in product(SPREADS, STABLE, CANARY, EFFECTS)]
    # Power is a larger share, for which a third of the trials tells as much.
    work = [
        (kind, options.seed + trial)
        for kind in kinds
        for trial in range(options.trials if kind.effect == 0 else max(options.trials // 3, 1))
    ]
    of, any_look, half_hour = Counter[Kind](), Counter[Kind](), Counter[Kind]()
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for kind, ever, then in pool.imap_unordered(_do, work, chunksize=10):
            of[kind] += 1
            any_look[kind] += ever
            half_hour[kind] += then
    if options.json:
        print(json.dumps([
            {"spread": kind.spread, "stable": kind.stable, "canary": kind.canary, "effect": kind.effect,
             "trials": of[kind], "any_look": any_look[kind], "after_30_min": half_hour[kind]}
            for kind in kinds
        ], indent=1))  # fmt: skip
        return 0
    print(f"{machine()}; seed {options.seed}; five metrics, {len(LOOKS)} looks in an hour\n")
    print("| pods differ by | false failures, any look | bound | " + " | ".join(_columns()) + " |")
    print("|---" * (3 + len(_columns())) + "|")
    for spread in SPREADS:
        quiet = [kind for kind in kinds if kind.spread == spread and kind.effect == 0]
        wrong, tried = sum(any_look[kind] for kind in quiet), sum(of[kind] for kind in quiet)
        bound = 1.0 if wrong == tried else float(stats.beta.ppf(0.95, wrong + 1, tried - wrong))
        power = [
            f"{any_look[kind] / of[kind]:.2f}"
            for stable, effect in product(STABLE, EFFECTS[1:])
            for kind in [Kind(spread, stable, 1, effect)]
        ]
        print(f"| {spread:.0%} | {wrong} of {tried} | {bound:.1%} | " + " | ".join(power) + " |")
    return 0


def _columns() -> list[str]:
    return [f"{stable}+1: {effect:+.0%}" for stable, effect in product(STABLE, EFFECTS[1:])]


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trials", type=int, default=100, help="canaries of each kind (100)")
    parser.add_argument("--seed", type=int, default=100_000, help="the first one (100000)")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--json", action="store_true", help="for programs, with the counts of every kind")
    parser.add_argument("--quick", action="store_true", help="two trials")
    options = parser.parse_args(argv)
    if options.quick:
        options.trials = 2
    return options


if __name__ == "__main__":
    sys.exit(main())
