"""How Argo Rollouts judges an analysis (``utils/evaluate``, ``assessMetricStatus``).

phase(conditions, result)        what one measurement is
outcomes(metric)                 what a run of the metric can end in, and after which measurements
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

Json = dict[str, Any]
SUCCESSFUL, FAILED, INCONCLUSIVE, ERROR, RUNNING = "Successful", "Failed", "Inconclusive", "Error", "Running"
MEASUREMENTS = (SUCCESSFUL, FAILED, INCONCLUSIVE, ERROR)


def phase(metric: Json, result: Sequence[float]) -> str:
    """What a measurement that gave ``result`` is: a vector of Prometheus is a list of numbers."""
    try:
        succeeds = _evaluate(metric.get("successCondition", ""), result)
        fails = _evaluate(metric.get("failureCondition", ""), result)
    except IndexError:
        return ERROR
    if fails is None:
        return SUCCESSFUL if succeeds is not False else FAILED
    if fails:
        return FAILED
    if succeeds is None:
        return SUCCESSFUL
    return SUCCESSFUL if succeeds else INCONCLUSIVE


def _evaluate(condition: str, result: Sequence[float]) -> bool | None:
    """The few forms of expr-lang that our conditions use; None for no condition."""
    if not condition:
        return None
    assert re.fullmatch(r"(?:[()<>=!&|\[\]\s\d.]|len|result|isNaN)+", condition), condition
    python = condition.replace("&&", " and ").replace("||", " or ")
    python = re.sub(r"!(?!=)", " not ", python)
    scope = {"__builtins__": {}, "len": len, "result": list(result), "isNaN": math.isnan}
    return bool(eval(python.strip(), scope))


@dataclass(frozen=True)
class Tally:
    """What a run has counted of a metric (1.9.1, ``runMeasurements``). An error is no measurement: it does not
    count, but it breaks a row of successes."""

    count: int = 0
    failed: int = 0
    inconclusive: int = 0
    errors_in_a_row: int = 0
    successes_in_a_row: int = 0
    successes: int = 0

    def after(self, measured: str) -> Tally:
        if measured == ERROR:
            return Tally(
                self.count,
                self.failed,
                self.inconclusive,
                self.errors_in_a_row + 1,
                0,
                self.successes,
            )
        return Tally(
            self.count + 1,
            self.failed + (measured == FAILED),
            self.inconclusive + (measured == INCONCLUSIVE),
            0,
            self.successes_in_a_row + 1 if measured == SUCCESSFUL else 0,
            self.successes + (measured == SUCCESSFUL),
        )


def assess(metric: Json, tally: Tally, *, terminating: bool = False) -> str:
    """The phase of a metric. Later checks win: Error over Inconclusive over Failed."""
    if tally == Tally():
        return SUCCESSFUL if terminating else RUNNING
    found = ""
    failures = metric.get("failureLimit", 0)
    wanted = metric.get("consecutiveSuccessLimit", 0)
    if failures >= 0 and tally.failed > failures:
        found = FAILED
    if tally.inconclusive > metric.get("inconclusiveLimit", 0):
        found = INCONCLUSIVE
    if tally.errors_in_a_row > metric.get("consecutiveErrorLimit", 4):
        found = ERROR
    if found:
        return found
    if wanted and tally.successes_in_a_row >= wanted:
        return SUCCESSFUL
    count = metric.get("count", 0 if "interval" in metric else 1)
    if count and tally.count >= count:
        if not wanted:
            return SUCCESSFUL
        return INCONCLUSIVE if failures >= 0 else FAILED
    return SUCCESSFUL if terminating else RUNNING


def outcomes(metric: Json, measurements: Sequence[str] = MEASUREMENTS) -> Iterator[tuple[str, Tally]]:
    """Every end that a run of a metric with a count can come to, whatever is measured in whatever order."""
    seen: set[Tally] = set()
    waiting = [Tally()]
    while waiting:
        tally = waiting.pop()
        found = assess(metric, tally)
        if found != RUNNING:
            yield found, tally
            continue
        for measured in measurements:
            following = tally.after(measured)
            if following not in seen:
                seen.add(following)
                waiting.append(following)


def run(metric: Json, results: Sequence[Sequence[float] | None]) -> str:
    """The phase after these results, in turn and again from the first; None is an error of the provider."""
    tally = Tally()
    for number in range(10_000):
        found = assess(metric, tally)
        if found != RUNNING:
            return found
        result = results[number % len(results)]
        tally = tally.after(ERROR if result is None else phase(metric, result))
    return RUNNING


def go_duration(text: str) -> float:
    """Seconds of a duration as Go's ``time.ParseDuration`` reads it, which knows no days."""
    assert re.fullmatch(r"(?:[0-9]+(?:\.[0-9]+)?(?:ns|us|ms|s|m|h))+", text), text
    units = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
    total = sum(float(n) * units[u] for n, u in re.findall(r"([0-9.]+)(ns|us|ms|s|m|h)", text))
    assert total < 2**63 / 1e9, f"{text} overflows a Go duration"
    return total
