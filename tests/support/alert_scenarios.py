"""What must make an alert fire and what must not, for each kind of alert: series on both sides of what its
rule says. A rule is read here as a person would read it, by patterns; one of another form is an error."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from modelway.lower import names
from tests.support.series import (
    HOUR,
    LOOKBACK,
    MINUTE,
    Phase,
    Query,
    Scenario,
    gauge,
    matchers,
    series,
    time,
)
from tests.support.traffic import Traffic, durations, requests

Labels = dict[str, str]
_DECOY = "another"  # a model that nobody watches and that does everything wrong

# Namespace and name.
Model = tuple[str, str]

# Series of a scenario that lasts so long.
Make = Callable[[int], dict[str, str]]

# How often rules are evaluated, scenarios in which the alert fires, and in which it is silent.
Proved = tuple[int, list[Scenario], list[Scenario]]


@dataclass(frozen=True)
class Subject:
    """A rule, read. ``watched`` are (namespace, model); the first of them is the one in trouble."""

    rule: dict[str, Any]
    records: dict[str, str]
    watched: tuple[Model, ...]

    @property
    def expr(self) -> str:
        return str(self.rule["expr"])

    @property
    def labels(self) -> Labels:
        return dict(self.rule["labels"])

    @property
    def window(self) -> int:
        return time(self.labels["window"])

    @property
    def for_(self) -> int:
        return time(self.rule.get("for", "0s"))

    @property
    def keep(self) -> int:
        return time(self.rule.get("keep_firing_for", "0s"))

    def read(self, pattern: str) -> tuple[str, ...]:
        found = re.search(pattern, self.expr)
        assert found, f"{self.rule['alert']}: {pattern} is not in {self.expr}"
        return found.groups()

    def number(self, pattern: str) -> float:
        return float(self.read(pattern)[0])

    def firing(self, *alerts: Mapping[str, str]) -> dict[str, list[Labels]]:
        """These alerts fire, each with these labels besides those of the rule, and no others."""
        return {self.rule["alert"]: [{**labels, **self.labels} for labels in alerts]}


def watched_in(expr: str) -> tuple[Model, ...]:
    found = matchers(expr)
    return tuple((n, m) for n in found.get("namespace", ()) for m in found.get("model", ()))


def _above(limit: float) -> float:
    """A share above the limit, nearer to it than to twice the limit, and possible."""
    return min(1.2 * limit, (1 + limit) / 2)


# Requests


def _traffic(
    subject: Subject,
    metric: str,
    limit: float,
    step: int,
    *phases: Traffic,
    alone: bool = False,
) -> dict[str, str]:
    """The first watched model as the phases say. Unless it is ``alone``, the other watched ones are well,
    and some fail whom nobody watches."""

    def make(who: Model, *parts: Traffic) -> dict[str, str]:
        if metric == names.REQUESTS:
            return requests(step, who, *parts)
        return durations(step, who, metric, limit, *parts)

    first, *others = subject.watched
    found = make(first, *phases)
    if not alone:
        length = sum(phase[0] for phase in phases)
        for who in others:
            found |= make(who, (length, 100.0, 0.0))
        for who in ((first[0], f"{first[1]}-{_DECOY}"), (f"{first[0]}-{_DECOY}", first[1])):
            found |= make(who, (length, 100.0, 1.0))
    return found


def _floor(subject: Subject) -> tuple[float, float]:
    """Requests a second: enough for an alert, though not for one with twice the floor; and too few."""
    least = subject.number(r"and [^\n]* > ([\d.]+)$")
    return (1.5 * least, 0.6 * least) if least else (1.0, 0.0)


# Objectives

_BURN = r"^model:\w+:rate(\w+)\{.*\} > ([\d.]+) \* ([\d.]+)\nand model:\w+:rate(\w+)\{"


def _burn(subject: Subject) -> Proved:
    long_, factor, budget, short_ = subject.read(_BURN)
    long, short, limit = time(long_), time(short_), float(factor) * float(budget)
    metric, bound = names.REQUESTS, 0.0
    if subject.rule["alert"] == names.LATENCY_BUDGET_BURN:
        found = re.search(r'le="([^"]+)"', subject.records["model:slow_requests:rate5m"])
        assert found
        metric, bound = names.DURATION, float(found[1])
    enough, few = _floor(subject)
    every, step = long // 30, MINUTE if long == HOUR else 4 * MINUTE
    high, low = _above(limit), 0.8 * limit
    me, nobody = subject.firing(_series_labels(subject)), subject.firing()
    before, full = long // 4, long + 2 * every  # `before` is more than the 5m of the shortest rate

    def scenario(title: str, firing: Any, *phases: Traffic, alone: bool = True) -> Scenario:
        made = _traffic(subject, metric, bound, step, *phases, alone=alone)
        return Scenario(title, step, made, sum(phase[0] for phase in phases) - step, firing)

    over = short + LOOKBACK + subject.keep + 3 * every
    burning = scenario("burning", me, (full, enough, high), alone=False)
    idle = scenario("after no traffic", me, (before, 0, 0), (full, 9, high))
    fires = [
        replace(burning, samples=_watched_only(subject, burning.at // every * every)),
        replace(idle, samples=_no_nan(subject, 4 * every, idle.at // every * every)),
    ]
    if metric == names.REQUESTS and long == HOUR:  # the longer windows are sums of these
        first = scenario("first failure ever", me, (before, 9, None), (full, 9, high))
        fires.append(replace(first, samples=_zero_before_failures(subject, 4 * every)))
    silent = [
        scenario("within the budget", nobody, (full, 9, low), alone=False),
        scenario("too little traffic", nobody, (full, few, 1)),
        scenario("over", nobody, (long, 9, min(1, 3 * limit)), (over, 9, low)),
        scenario("only a moment", nobody, (long, 9, 0.7 * limit), (short, 9, min(1, 2 * limit))),
    ]
    if metric == names.DURATION:
        silent.append(_new_bound(scenario("the threshold is new", nobody, (full, 9, 0)), subject))
    return every, fires, silent


def _watched_only(subject: Subject, at: int) -> list[Query]:
    """Series of other models are recorded by the rules of other Alerts."""
    watched = float(len(subject.watched))
    return [(f"count({record})", at, [("{}", watched)]) for record in subject.records]


def _zero_before_failures(subject: Subject, at: int) -> list[Query]:
    """Before anything failed, the ratio is zero; it is not missing."""
    records = [record for record in subject.records if f":{names.AVAILABILITY_SERIES[2]}:" in record]
    lines = [series(record, **_series_labels(subject)) for record in records]
    return [(line, at, [(line, 0.0)]) for line in lines]


def _no_nan(subject: Subject, *times: int) -> list[Query]:
    """Without requests no ratio is recorded, and none is poisoned later: only NaN differs from itself."""
    return [(f"count({record} != {record})", at, []) for record in subject.records for at in times]


def _new_bound(scenario: Scenario, subject: Subject) -> Scenario:
    """Half of the servers are of the version before, without a bucket at the threshold."""
    namespace, model = subject.watched[0]
    old = 'pod="b"', f'model="{model}"', f'namespace="{namespace}"'
    bound = re.findall(r'le="([^"]+)"', subject.records["model:slow_requests:rate5m"])[0]
    kept = {
        name: values
        for name, values in scenario.series.items()
        if not (f'le="{bound}"' in name and all(part in name for part in old))
    }
    assert len(kept) == len(scenario.series) - 1
    return replace(scenario, series=kept)


# Thresholds


@dataclass(frozen=True)
class Clock:
    """Times for a threshold: samples every ``step``, evaluated ``every``."""

    step: int
    every: int
    fires: int  # by now the condition has held for ``for``
    silent: int  # by now whatever the first samples caused is over
    brief: int  # the condition holds, though not for long enough


def _clock(subject: Subject) -> Clock:
    window, for_ = subject.window, subject.for_
    step = min(max(1, window // 5), MINUTE) if window <= 2 * HOUR else 4 * MINUTE
    every = step * max(1, -(-(window + for_) // (200 * step)))
    fires = window + step + for_ + 3 * every
    return Clock(step, every, fires, fires + subject.keep + 2 * every, for_ // 2)


def _simple(
    subject: Subject,
    trouble: Mapping[str, Make],
    peace: Mapping[str, Make],
    *firing: Mapping[str, str],
) -> Proved:
    """Scenarios of series that stay as they are; in trouble the alert fires with these labels of series."""
    clock = _clock(subject)
    fires = [
        Scenario(title, clock.step, make(clock.fires), clock.fires, subject.firing(*firing))
        for title, make in trouble.items()
    ]
    silent = [
        Scenario(title, clock.step, make(clock.silent), clock.silent, subject.firing())
        for title, make in peace.items()
    ]
    if subject.for_ >= 4 * clock.every:
        make = next(iter(trouble.values()))
        silent.append(Scenario("not for long", clock.step, make(clock.fires), clock.brief, subject.firing()))
    return clock.every, fires, silent


def _series_labels(subject: Subject) -> Labels:
    return dict(zip(("namespace", "model"), subject.watched[0], strict=True))


def _quantile(subject: Subject) -> Proved:
    metric = subject.read(r"rate\((\w+)_bucket\{")[0]
    quantile, limit = subject.number(r"^histogram_quantile\(([\d.]+),"), subject.number(r"\) > ([\d.]+)\n")
    step = _clock(subject).step
    enough, few = _floor(subject)
    beyond = 1 - quantile
    slow, fast = beyond + min(quantile, beyond) / 2, beyond / 2

    def traffic(rate: float, share: float) -> Make:
        return lambda length: _traffic(subject, metric, limit, step, (length + step, rate, share))

    return _simple(
        subject,
        {"slow": traffic(enough, slow)},
        {
            "fast enough": traffic(9, fast),
            "too little traffic": traffic(few, 1),
            "no traffic": traffic(0, 1),
        },
        _series_labels(subject),
    )


def _error_ratio(subject: Subject) -> Proved:
    least, limit = (float(text) for text in subject.read(r" > ([\d.]+)\) > ([\d.]+)$"))
    step, high = _clock(subject).step, _above(limit)

    def traffic(*phases: tuple[float, float | None]) -> Make:
        return lambda length: _traffic(
            subject, names.REQUESTS, 0, step, *((length + step, rate, share) for rate, share in phases)
        )

    clock = _clock(subject)
    every, fires, silent = _simple(
        subject,
        {"failing": traffic((1.5 * least or 1.0, high))},
        {
            "failing a little": traffic((9, 0.8 * limit)),
            "never failed": traffic((9, None)),
            "too little traffic": traffic((0.6 * least, 1)),
        },
        _series_labels(subject),
    )
    made = traffic((9, None), (9, high))(clock.fires)
    fires.append(
        Scenario("first failure ever", step, made, 2 * clock.fires, subject.firing(_series_labels(subject)))
    )
    return every, fires, silent


def _throughput(subject: Subject) -> Proved:
    limit, step = subject.number(r" < ([\d.]+)$"), _clock(subject).step
    first, *others = subject.watched

    def traffic(rate: float | None, *, ready: bool = True) -> Make:
        def make(length: int) -> dict[str, str]:
            found = {}
            for who, asked in ((first, rate), *((other, 2 * limit) for other in others)):
                labels = {"namespace": who[0], "model": who[1]}
                if ready:
                    found[series(names.MODEL_READY, **labels, pod="a")] = gauge(step, (length + step, 1))
                if asked is not None:
                    found |= requests(step, who, (length + step, asked, 0.5))
            return found

        return make

    return _simple(
        subject,
        {"few requests": traffic(0.8 * limit), "none any more": traffic(0), "none ever": traffic(None)},
        {
            "requests": traffic(1.2 * limit),
            "no server": traffic(None, ready=False) if not others else traffic(9 * limit),
        },
        _series_labels(subject),
    )


# Pods and GPUs


def _pods(pattern: str) -> tuple[str, list[str]]:
    """A name that the pattern is meant to take, and names of other workloads."""
    some = re.sub(r"\([^)]*\)\?", "", pattern).replace("[a-z0-9]+", "7c9d8")
    job = pattern.split("-[a-z0-9]+")[0].split("[a-z0-9]+")[0]
    assert re.fullmatch(pattern, some), (pattern, some)
    return some, [f"{job}-{role}-7c9d8-x2k4z" for role in ("lite", names.STANDBY)] + [f"my-{job}-7c9d8-x2k4z"]


def _memory(subject: Subject) -> Proved:
    limit, step = subject.number(r" > ([\d.]+)$"), _clock(subject).step
    wanted = matchers(subject.expr)
    namespace = wanted["namespace"][0]
    pods = [_pods(pattern) for pattern in wanted["pod"]]
    size = 1024.0**3

    def use(share: float, container: str = names.CONTAINER) -> Make:
        def make(length: int) -> dict[str, str]:
            found = {}
            full = [(namespace, other, 0.99) for _, others in pods for other in others]
            full += [(f"{namespace}-{_DECOY}", pod, 0.99) for pod, _ in pods]
            for where, name, used in [*((namespace, pod, share) for pod, _ in pods), *full]:
                labels = {"namespace": where, "pod": name, "container": container}
                values = gauge(step, (length + step, used * size))
                found[series(names.MEMORY_WORKING_SET, **labels, id="/kubepods/1")] = values
                for resource, value in (("memory", size), ("cpu", 4.0)):
                    line = gauge(step, (length + step, value))
                    found[series(names.RESOURCE_LIMITS, **labels, resource=resource)] = line
            return found

        return make

    return _simple(
        subject,
        {"nearly full": use(_above(limit))},
        {"room": use(0.8 * limit), "another container is full": use(0.99, "proxy")},
        *({"namespace": namespace, "pod": pod} for pod, _ in pods),
    )


def _gpu(subject: Subject) -> Proved:
    limit, step = subject.number(r" > ([\d.]+)$"), _clock(subject).step
    selector = subject.read(r"DCGM_FI_DEV_\w+(\{.*?\"\})")[0]
    wanted = matchers(selector)
    pod_label = re.findall(r'(\w+)=~"', selector)[0]
    namespace_label = next(label for label in wanted if label != pod_label)
    namespace = wanted[namespace_label][0]
    pods = [_pods(pattern) for pattern in wanted[pod_label]]
    utilization = subject.rule["alert"] == names.GPU_UTILIZATION_HIGH
    values = _gpu_utilization if utilization else _gpu_memory

    def use(*shares: float | None, others: float) -> Make:
        def make(length: int) -> dict[str, str]:
            here = [(namespace, pod, str(i), share) for pod, _ in pods for i, share in enumerate(shares)]
            there = [(namespace, pod, str(i), others) for _, decoys in pods for i, pod in enumerate(decoys)]
            there += [(f"{namespace}-{_DECOY}", pod, "0", others) for pod, _ in pods]
            return {
                series(metric, **{namespace_label: where, pod_label: pod, "gpu": gpu}): gauge(
                    step, (length + step, value)
                )
                for where, pod, gpu, share in [*here, *there]
                for metric, value in values(share).items()
            }

        return make

    high, low = _above(limit), 0.8 * limit
    trouble = {"busy": use(high, high, others=0.001), "one cannot tell": use(high, None, others=0.001)}
    peace = {"room": use(low, low, others=0.999), "one cannot tell": use(low, None, others=0.999)}
    # What counts is the mean use, and the fullest memory.
    (peace if utilization else trouble)["one is idle"] = use(high, 0.001, others=0.001)
    return _simple(subject, trouble, peace, {})


_BLANK = 9223372036854775792.0  # what the exporter says of a GPU that cannot tell


def _gpu_utilization(share: float | None) -> dict[str, float]:
    return {names.GPU_UTILIZATION: _BLANK if share is None else 100 * share}


def _gpu_memory(share: float | None) -> dict[str, float]:
    whole = 81920.0  # MiB
    used = whole * (share or 0.5)
    free = (whole - used) * 0.1
    return {
        names.GPU_MEMORY_USED: _BLANK if share is None else used,
        names.GPU_MEMORY_FREE: free,
        names.GPU_MEMORY_RESERVED: whole - used - free,
    }


# Absence


def absence(subject: Subject) -> Proved:
    wanted = matchers(subject.expr)
    (label,) = wanted.keys() & {names.JOB, names.POD_NAME}
    namespace, job = wanted["namespace"][0], wanted[label][0]
    every = max(1, subject.for_ // 20)
    step = min(every, MINUTE)
    for_ = subject.for_

    def up(*phases: Phase) -> dict[str, str]:
        length = sum(phase[0] for phase in phases)
        here = series(names.UP, namespace=namespace, **{label: job}, pod="a")
        others = ((namespace, f"{job}-lite"), (namespace, f"my-{job}"), (f"{namespace}-{_DECOY}", job))
        found = {
            series(names.UP, namespace=n, **{label: j}, pod="z"): gauge(step, (length, 1)) for n, j in others
        }
        return {here: gauge(step, *phases), **found} if phases[0][1] is not None else found

    def scenario(title: str, firing: Any, *phases: Phase, more: Mapping[str, str] | None = None) -> Scenario:
        at = sum(phase[0] for phase in phases) - step
        return Scenario(title, step, {**up(*phases), **(more or {})}, at, firing)

    me, nobody = subject.firing({}), subject.firing()
    second = {series(names.UP, namespace=namespace, **{label: job}, pod="b"): gauge(step, (2 * for_, 1))}
    return (
        every,
        [
            scenario("never seen", me, (for_ + 3 * every, None)),
            scenario("gone", me, (for_, 1), (LOOKBACK + for_ + 3 * every, None)),
            scenario("down", me, (for_, 1), (for_ + 3 * every, 0)),
        ],
        [
            scenario("there", nobody, (2 * for_, 1)),
            scenario("one of two is there", nobody, (2 * for_, 0), more=second),
            scenario("not for long", nobody, (for_, 1), (for_ * 6 // 10, 0)),
        ],
    )


KINDS: dict[str, Callable[[Subject], Proved]] = {
    names.ERROR_BUDGET_BURN: _burn,
    names.LATENCY_BUDGET_BURN: _burn,
    names.LATENCY_HIGH: _quantile,
    names.QUEUE_TIME_HIGH: _quantile,
    names.ERROR_RATIO_HIGH: _error_ratio,
    names.THROUGHPUT_LOW: _throughput,
    names.MEMORY_HIGH: _memory,
    names.GPU_UTILIZATION_HIGH: _gpu,
    names.GPU_MEMORY_HIGH: _gpu,
    names.ABSENT: absence,
}
