"""Synthetic series in promtool's notation, and the tests that are made of them. Times are milliseconds."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000
LOOKBACK = 5 * MINUTE  # a sample answers instant queries for so long

# What happens to a series for a time: a rate (of a counter), a value (of a gauge), or no samples.
Phase = tuple[int, float | None]

# An expression, when it is asked, and its answer: series with their values.
Query = tuple[str, int, Sequence[tuple[str, float]]]

_UNITS = {"ms": 1, "s": 1000, "m": MINUTE, "h": HOUR, "d": DAY}
_MATCHER = re.compile(r'(\w+)(=~|=)"((?:[^"\\]|\\.)*)"')


def time(text: str) -> int:
    amount, unit = re.fullmatch(r"(\d+)(\w+)", text).groups()  # type: ignore[union-attr]
    return int(amount) * _UNITS[unit]


def matchers(selector: str) -> dict[str, list[str]]:
    """The values that each label of a selector may have; those of a regular expression as alternatives."""
    found = {}
    for label, operator, text in _MATCHER.findall(selector):
        value = re.sub(r"\\(.)", r"\1", text)
        found[label] = value.split("|") if operator == "=~" else [value]
    return found


def series(metric: str, **labels: str) -> str:
    inner = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    return f"{metric}{{{inner}}}"


def counter(step: int, *phases: Phase) -> str:
    """A counter that rises by ``rate`` a second; it begins at zero."""
    return _values(step, phases, rising=True)


def gauge(step: int, *phases: Phase) -> str:
    return _values(step, phases, rising=False)


def _values(step: int, phases: Iterable[Phase], *, rising: bool) -> str:
    parts, total, first = [], 0.0, True
    for length, value in phases:
        samples = -(-length // step)
        if value is None:
            parts.append(f"_x{samples}")
            continue
        rise = value * step / 1000 if rising else 0.0
        start = (total if first else total + rise) if rising else value
        parts.append(f"{_number(start)}+{_number(rise)}x{samples - 1}")
        total, first = start + rise * (samples - 1), False
    return " ".join(parts)


def _number(value: float) -> str:
    """promtool reads no exponents."""
    return f"{Decimal(f'{value:.12g}'):f}"


@dataclass(frozen=True)
class Scenario:
    """Series, and which alerts (by their labels) fire ``at`` a time; ``samples`` are queries with answers."""

    title: str
    step: int
    series: Mapping[str, str]
    at: int
    firing: Mapping[str, Sequence[Mapping[str, str]]]
    samples: Sequence[Query] = field(default=())

    def test(self) -> dict[str, Any]:
        """One entry of ``tests`` in a file for ``promtool test rules``."""
        return {
            "name": self.title,
            "interval": f"{self.step}ms",
            "input_series": [{"series": name, "values": values} for name, values in self.series.items()],
            "alert_rule_test": [
                {
                    "eval_time": f"{self.at}ms",
                    "alertname": alert,
                    "exp_alerts": [{"exp_labels": dict(labels)} for labels in expected],
                }
                for alert, expected in self.firing.items()
            ],
            "promql_expr_test": [
                {
                    "expr": expr,
                    "eval_time": f"{at}ms",
                    "exp_samples": [{"labels": labels, "value": value} for labels, value in samples],
                }
                for expr, at, samples in self.samples
            ],
        }
