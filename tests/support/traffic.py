"""The series that a server under load would show: requests by code, and times in buckets."""

from __future__ import annotations

from collections.abc import Callable

from modelway.lower import names
from tests.support.series import Phase, counter, series

# How long, requests a second, the share of them that is bad (None: no bad one was ever counted).
Traffic = tuple[int, float, float | None]


def requests(step: int, who: tuple[str, str], *phases: Traffic) -> dict[str, str]:
    """Bad is what fails, half of it with 503 and half with 429, so that a matcher that misses one of them
    sees too little. A third of the others are the caller's own fault and no failure.
    """
    codes: dict[str, Callable[[float, float | None], float | None]] = {
        "200": lambda rate, share: rate * (1 - (share or 0)) * 2 / 3,
        "404": lambda rate, share: rate * (1 - (share or 0)) / 3,
        "503": lambda rate, share: None if share is None else rate * share / 2,
        "429": lambda rate, share: None if share is None else rate * share / 2,
    }
    found = {}
    for pod in ("a", "b"):
        for code, of in codes.items():
            parts: list[Phase] = []
            for length, rate, share in phases:
                value = of(rate, share)
                parts.append((length, None if value is None else value / 2))
            name = series(names.REQUESTS, namespace=who[0], model=who[1], pod=pod, method="infer", code=code)
            found[name] = counter(step, *parts)
    return found


def durations(step: int, who: tuple[str, str], metric: str, limit: float, *phases: Traffic) -> dict[str, str]:
    """Bad is what takes longer than ``limit`` seconds, yet not twice as long. The others take more than half
    of it, so that every other bound counts other requests."""
    found = {}
    for pod in ("a", "b"):
        labels = {"namespace": who[0], "model": who[1], "pod": pod}
        whole: list[Phase] = [(length, rate / 2) for length, rate, _ in phases]
        within: list[Phase] = [(length, rate / 2 * (1 - (share or 0))) for length, rate, share in phases]
        none: list[Phase] = [(length, 0.0) for length, *_ in phases]
        found[series(f"{metric}_count", **labels)] = counter(step, *whole)
        for bound, of in ((limit / 2, none), (limit, within), (limit * 2, whole)):
            found[series(f"{metric}_bucket", **labels, le=repr(bound))] = counter(step, *of)
        found[series(f"{metric}_bucket", **labels, le="+Inf")] = counter(step, *whole)
    return found
