"""Objectives as multi-window, multi-burn-rate alerts (Google SRE workbook, chapter 5).

A burn rate is the share of bad requests divided by the share that the objective allows: at 1 the budget
lasts exactly the period. An alert says "this share of the budget goes within the long window", so its
burn rate is share x period / long window; the short window makes it stop soon after the cause is gone.

Three holes of the form in the book are closed here. Without requests 0/0 would write NaN, which no later
sum gets rid of: denominators are ``> 0``, so that no requests give no sample. A model that never failed
has no series of errors and therefore no ratio: ``or 0 *`` gives it zero. One failed request of three at
night would page: below ``minRate`` the alerts stay silent.

What they cannot see is an outage in which nothing is served at all, not even errors: no requests, no
ratio. That is what ``absence`` is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from modelway.lower import names
from modelway.lower.promql import bucket, number
from modelway.lower.watched import WHO, Rule, Scope
from modelway.spec.alert import Availability, Latency
from modelway.spec.common import milliseconds

# How often ratios are recorded. The sums over long windows read one sample a time: 43,200 for 30 days.
INTERVAL = "1m"

# Windows whose rates are taken from the counters themselves. They are exact, and they decide how soon an
# outage is noticed. Reading counters over days would cost (pods x codes x scrapes) samples each time.
EXACT = ("5m", "1h")

# The other windows are sums over the recorded 5m rates. Both sums read the same minutes, so the ratio is
# weighted by traffic. It is approximate at its edges only: requests of the newest and the oldest five
# minutes count in part, and minutes in which Prometheus recorded nothing not at all.
SUMMED = ("30m", "2h", "6h", "1d", "3d")


@dataclass(frozen=True, slots=True)
class Pair:
    """``percent`` of the budget within the long window is worth an alert of this severity."""

    percent: int
    long: str
    short: str
    severity: str


PAIRS = (
    Pair(2, "1h", "5m", "critical"),
    Pair(5, "6h", "30m", "critical"),
    Pair(10, "1d", "2h", "warning"),
    Pair(10, "3d", "6h", "warning"),
)


@lru_cache(maxsize=16)
def factors(period: str) -> tuple[tuple[Pair, Decimal, str], ...]:
    """The burn rate of each pair, and its text: for 30 days 14.4, 6, 3 and 1; six places if it never ends."""
    found = []
    for pair in PAIRS:
        rate = Fraction(pair.percent, 100) * milliseconds(period) / milliseconds(pair.long)
        factor = round(Decimal(rate.numerator) / rate.denominator, 6)
        found.append((pair, factor, number(factor)))
    return tuple(found)


@lru_cache(maxsize=1024)
def budget(target: float) -> Decimal:
    """The share of requests that may be bad: 99.9 percent -> 0.001, without the noise of floats."""
    return (100 - Decimal(repr(target))) / 100


class Indicator(NamedTuple):
    """What an objective counts. ``all`` and ``bad`` are PromQL, split where the window goes."""

    slo: str
    alert: str
    series: tuple[str, str, str]
    target: float
    all: tuple[str, ...]
    bad: tuple[str, ...]
    bad_is: str


_BY = "sum by (namespace, model)"


@lru_cache(maxsize=128)
def _series(quantity: str, window: str) -> str:
    return names.recording(quantity, "rate", window)


def availability(scope: Scope, objective: Availability) -> Indicator:
    requests = f"{_BY} (rate({names.REQUESTS}{{{scope.selector}"
    return Indicator(
        slo="availability",
        alert=names.ERROR_BUDGET_BURN,
        series=names.AVAILABILITY_SERIES,
        target=objective.target,
        all=(f"{requests}}}[", "]))"),
        bad=(f'{requests},code=~"{names.BAD_CODES}"}}[', "]))"),
        bad_is="failed (5xx, 429)",
    )


def latency(scope: Scope, objective: Latency) -> Indicator:
    """Requests of whatever outcome: the histogram has no label ``code``.

    Slow ones are counted server by server. While the threshold is being changed, servers of the old
    version have no such bucket: none of their requests counts as slow, where a plain difference of sums
    would take all of them for slow.
    """
    count = f"rate({names.DURATION}_count{{{scope.selector}}}["
    within = f'{names.DURATION}_bucket{{{scope.selector},le="{bucket(milliseconds(objective.threshold))}"}}['
    return Indicator(
        slo="latency",
        alert=names.LATENCY_BUDGET_BURN,
        series=names.LATENCY_SERIES,
        target=objective.target,
        all=(f"{_BY} ({count}", "]))"),
        bad=(f"{_BY} ({count}", f"]) - ignoring (le) rate({within}", "]))"),
        bad_is=f"took longer than {objective.threshold}",
    )


def objective_rules(scope: Scope, indicator: Indicator) -> list[Rule]:
    """Recording rules, then the alerts that read them: a group is evaluated in this order."""
    return [*_recording_rules(scope, indicator), *_alerting_rules(scope, indicator)]


def _recording_rules(scope: Scope, indicator: Indicator) -> list[Rule]:
    all_, bad, ratio = indicator.series
    of = f"{{{scope.selector}}}"
    rules: list[Rule] = []
    for window in EXACT:
        requests, errors = _series(all_, window), _series(bad, window)
        rules += (
            {"record": requests, "expr": window.join(indicator.all)},
            {"record": errors, "expr": f"{window.join(indicator.bad)} or 0 * {requests}{of}"},
            {"record": _series(ratio, window), "expr": f"{errors}{of} / ({requests}{of} > 0)"},
        )
    of_bad = f"sum_over_time({_series(bad, EXACT[0])}{of}["
    of_all = f"sum_over_time({_series(all_, EXACT[0])}{of}["
    for window in (*SUMMED, scope.spec.period):
        expr = f"{of_bad}{window}]) / ({of_all}{window}]) > 0)"
        rules.append({"record": _series(ratio, window), "expr": expr})
    return rules


def _alerting_rules(scope: Scope, indicator: Indicator) -> list[Rule]:
    all_, _, ratio = indicator.series
    of = f"{{{scope.selector}}}"
    period, share = scope.spec.period, budget(indicator.target)
    text, slo = number(share), indicator.slo
    objective = f"the objective of {number(indicator.target)} % over {period}."
    failed = f"{{{{ $value | humanizePercentage }}}} of the requests to {WHO} {indicator.bad_is} within "
    spends = "{{ $labels.model }} spends"
    rules = []
    for pair, factor, burn in factors(period):
        if factor * share >= 1:
            continue  # not even a total outage burns a budget this large so fast
        long = pair.long
        if long in EXACT:
            traffic = f"{_series(all_, long)}{of}"
        else:
            traffic = f"avg_over_time({_series(all_, EXACT[0])}{of}[{long}])"
        expr = (
            f"{_series(ratio, long)}{of} > {burn} * {text}\n"
            f"and {_series(ratio, pair.short)}{of} > {burn} * {text}\n"
            f"and {traffic} > {scope.least}"
        )
        rules.append(
            scope.rule(
                indicator.alert,
                expr,
                {"severity": pair.severity, "slo": slo, "window": long},
                f"{spends} {pair.percent} % of its {slo} budget of {period} in {long}",
                f"{failed}{long}: a burn rate above {burn} for {objective}",
            )
        )
    return rules
