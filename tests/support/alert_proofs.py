"""For every alert that ``rule_groups`` can produce: tests in which it fires and in which it stays silent.

The tests are made from the rules alone (thresholds, windows, selectors are read from the expressions), so
they hold for any Alert. Each alert is proved by itself, together with the recording rules of its group;
the proofs of absence also run all rules of the Alert at once. Values lie just above and just below the
threshold, so that a rule with another threshold fails its proof.

    proofs = prove(groups)                # one for each alerting rule
    failures(proofs, groups, folder)      # [] or what promtool says of those that fail
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelway.lower import names
from tests.support import promtool
from tests.support.series import (
    HOUR,
    LOOKBACK,
    MINUTE,
    Phase,
    Scenario,
    counter,
    gauge,
    matchers,
    series,
    time,
)

Groups = list[dict[str, Any]]
Labels = dict[str, str]
_DECOY = "another"  # a model that nobody watches and that does everything wrong


@dataclass(frozen=True)
class Proof:
    """``every`` is how often rules are evaluated. ``whole``: with all rules, not with those it needs."""

    name: str
    group: int
    rule: int
    every: int
    fires: Sequence[Scenario]
    silent: Sequence[Scenario]
    whole: bool = False


@dataclass(frozen=True)
class Subject:
    """A rule, read. ``watched`` are (namespace, model); the first of them is the one in trouble."""

    rule: dict[str, Any]
    records: dict[str, str]
    watched: tuple[tuple[str, str], ...]

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


def prove(groups: Groups) -> list[Proof]:
    """A proof for each alert; KeyError for an alert that nobody has written one for."""
    found: list[Proof] = []
    for g, group in enumerate(groups):
        records = {rule["record"]: rule["expr"] for rule in group["rules"] if "record" in rule}
        for r, rule in enumerate(group["rules"]):
            if "alert" in rule:
                every, fires, silent = _KINDS[rule["alert"]](Subject(rule, records, _watched(rule["expr"])))
                name = "-".join((rule["alert"], rule["labels"]["window"], str(len(found))))
                found.append(Proof(name, g, r, every, fires, silent))
    absent = [proof for proof in found if proof.name.startswith(names.ABSENT)]
    return [*found, *([_outage(groups, absent)] if absent else [])]


def write(proof: Proof, groups: Groups, folder: Path) -> list[Path]:
    """The tests of the proof against these groups: one file where it fires, one where it is silent.

    Annotations are left out: promtool would compare them too, and they say nothing of when an alert fires.
    """
    rules = folder / f"{proof.name}.rules.yml"
    chosen = groups if proof.whole else [_alone(groups[proof.group], proof.rule)]
    bare = [{**group, "rules": [_without_annotations(rule) for rule in group["rules"]]} for group in chosen]
    rules.write_text(json.dumps({"groups": bare}))
    written = []
    for outcome, scenarios in (("fires", proof.fires), ("silent", proof.silent)):
        path = folder / f"{proof.name}.{outcome}.yml"
        tests = [scenario.test() for scenario in scenarios]
        head = {"rule_files": [rules.name], "evaluation_interval": f"{proof.every}ms"}
        path.write_text(json.dumps({**head, "tests": tests}, indent=1))
        written.append(path)
    return written


def failures(proofs: Sequence[Proof], groups: Groups, folder: Path) -> list[str]:
    """What promtool says of the proofs that do not hold for these groups."""
    paths = [path for proof in proofs for path in write(proof, groups, folder)]
    return [promtool.explain(path) for path in promtool.failed_tests(paths)]


def _alone(group: dict[str, Any], index: int) -> dict[str, Any]:
    rules = [rule for i, rule in enumerate(group["rules"]) if "record" in rule or i == index]
    return {**group, "rules": rules}


def _without_annotations(rule: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rule.items() if key != "annotations"}


def _watched(expr: str) -> tuple[tuple[str, str], ...]:
    found = matchers(expr)
    return tuple((n, m) for n in found.get("namespace", ()) for m in found.get("model", ()))


def _above(limit: float) -> float:
    """A share above the limit, nearer to it than to twice the limit, and possible."""
    return min(1.2 * limit, (1 + limit) / 2)


# Requests


def _requests(step: int, who: tuple[str, str], *phases: tuple[int, float, float | None]) -> dict[str, str]:
    """Phases: how long, requests a second, share that fails (None: no failure was ever counted).

    Failures are half 503 and half 429: a matcher that misses one of them sees too few. A third of the
    others are the caller's own fault and no failure.
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


def _durations(
    step: int, who: tuple[str, str], metric: str, limit: float, *phases: tuple[int, float, float | None]
) -> dict[str, str]:
    """Phases: how long, requests a second, share that takes longer than ``limit`` seconds, yet not twice
    as long. The others take more than half of it, so that another bound counts other requests."""
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


def _traffic(
    subject: Subject, metric: str, limit: float, step: int, *phases: tuple[int, float, float | None]
) -> dict[str, str]:
    """The first watched model as the phases say; the others are well, and one that is not watched is not."""
    make = (
        (lambda who, *parts: _requests(step, who, *parts))
        if metric == names.REQUESTS
        else (lambda who, *parts: _durations(step, who, metric, limit, *parts))
    )
    length = sum(phase[0] for phase in phases)
    first, *others = subject.watched
    found: dict[str, str] = make(first, *phases)
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


def _burn(subject: Subject) -> tuple[int, list[Scenario], list[Scenario]]:
    long_, factor, budget, short_ = subject.read(_BURN)
    long, short, limit = time(long_), time(short_), float(factor) * float(budget)
    metric, bound = names.REQUESTS, 0.0
    if subject.rule["alert"] == names.LATENCY_BUDGET_BURN:
        found = re.search(r'le="([^"]+)"', subject.records["model:slow_requests:rate5m"])
        assert found
        metric, bound = names.DURATION, float(found[1])
    enough, few = _floor(subject)
    every = max(MINUTE, long // 72)
    high, low = _above(limit), 0.8 * limit
    me = subject.firing(dict(zip(("namespace", "model"), subject.watched[0], strict=True)))
    nobody = subject.firing()

    def scenario(title: str, firing: Any, *phases: tuple[int, float, float | None]) -> Scenario:
        made = _traffic(subject, metric, bound, MINUTE, *phases)
        return Scenario(title, MINUTE, made, sum(phase[0] for phase in phases) - MINUTE, firing)

    fires = [
        scenario("burning", me, (long + 2 * every, enough, high)),
        _first_ever(subject, every, scenario("first failure ever", me, (long, 9, None), (long + 2 * every, 9, high))),
        _without_nan(subject, long, scenario("after no traffic", me, (long, 0, 0), (long + 2 * every, 9, high))),
    ]
    silent = [
        scenario("within the budget", nobody, (long + 2 * every, 9, low)),
        scenario("too little traffic", nobody, (long + 2 * every, few, 1)),
        scenario(
            "over",
            nobody,
            (long, 9, min(1, 3 * limit)),
            (short + LOOKBACK + subject.keep + 3 * every, 9, 0),
        ),
        scenario("only a moment", nobody, (long, 9, 0), (short, 9, min(1, 2 * limit))),
    ]
    if metric == names.DURATION:
        silent.append(_new_bound(scenario("the threshold is new", nobody, (long + 2 * every, 9, 0)), subject))
    return every, fires, silent


def _first_ever(subject: Subject, every: int, scenario: Scenario) -> Scenario:
    """Before anything failed, the ratio is zero; it is not missing."""
    if subject.rule["alert"] != names.ERROR_BUDGET_BURN:
        return scenario
    namespace, model = subject.watched[0]
    samples = []
    for record in subject.records:
        if record.startswith(f"model:{names.AVAILABILITY_SERIES[2]}:"):
            name = series(record, namespace=namespace, model=model)
            samples.append((name, 2 * every, [(name, 0.0)]))
    return _asking(scenario, samples)


def _without_nan(subject: Subject, until: int, scenario: Scenario) -> Scenario:
    """Without requests no ratio is recorded, and none is poisoned later: only NaN differs from itself."""
    ends = scenario.at
    samples = [
        (f"count({record} != {record})", at, []) for record in subject.records for at in (until // 2, ends)
    ]
    return _asking(scenario, samples)


def _asking(scenario: Scenario, samples: list[tuple[str, int, list[tuple[str, float]]]]) -> Scenario:
    return Scenario(
        scenario.title, scenario.step, scenario.series, scenario.at, scenario.firing, tuple(samples)
    )


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
    return Scenario(scenario.title, scenario.step, kept, scenario.at, scenario.firing)


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
    who: Labels,
    trouble: Mapping[str, Callable[[int], dict[str, str]]],
    peace: Mapping[str, Callable[[int], dict[str, str]]],
) -> tuple[int, list[Scenario], list[Scenario]]:
    """Scenarios of series that stay as they are; the functions make them for a length of time."""
    clock = _clock(subject)
    fires = [
        Scenario(title, clock.step, make(clock.fires), clock.fires, subject.firing(who))
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


def _quantile(subject: Subject) -> tuple[int, list[Scenario], list[Scenario]]:
    metric = subject.read(r"rate\((\w+)_bucket\{")[0]
    quantile, limit = subject.number(r"^histogram_quantile\(([\d.]+),"), subject.number(r"\) > ([\d.]+)\n")
    step = _clock(subject).step
    enough, few = _floor(subject)
    beyond = 1 - quantile
    slow, fast = beyond + min(quantile, beyond) / 2, beyond / 2

    def traffic(rate: float, share: float) -> Callable[[int], dict[str, str]]:
        return lambda length: _traffic(subject, metric, limit, step, (length + step, rate, share))

    return _simple(
        subject,
        _series_labels(subject),
        {"slow": traffic(enough, slow)},
        {
            "fast enough": traffic(9, fast),
            "too little traffic": traffic(few, 1),
            "no traffic": traffic(0, 1),
        },
    )


def _error_ratio(subject: Subject) -> tuple[int, list[Scenario], list[Scenario]]:
    least, limit = (float(text) for text in subject.read(r" > ([\d.]+)\) > ([\d.]+)$"))
    step, high = _clock(subject).step, _above(limit)

    def traffic(*phases: tuple[float, float | None]) -> Callable[[int], dict[str, str]]:
        return lambda length: _traffic(
            subject, names.REQUESTS, 0, step, *((length + step, rate, share) for rate, share in phases)
        )

    clock = _clock(subject)
    every, fires, silent = _simple(
        subject,
        _series_labels(subject),
        {"failing": traffic((1.5 * least or 1.0, high))},
        {
            "failing a little": traffic((9, 0.8 * limit)),
            "never failed": traffic((9, None)),
            "too little traffic": traffic((0.6 * least, 1)),
        },
    )
    made = traffic((9, None), (9, high))(clock.fires)
    fires.append(
        Scenario("first failure ever", step, made, 2 * clock.fires, subject.firing(_series_labels(subject)))
    )
    return every, fires, silent


def _throughput(subject: Subject) -> tuple[int, list[Scenario], list[Scenario]]:
    limit, step = subject.number(r" < ([\d.]+)$"), _clock(subject).step
    first, *others = subject.watched

    def traffic(rate: float | None, *, ready: bool = True) -> Callable[[int], dict[str, str]]:
        def make(length: int) -> dict[str, str]:
            found = {}
            for who, requests in ((first, rate), *((other, 2 * limit) for other in others)):
                labels = {"namespace": who[0], "model": who[1]}
                if ready:
                    found[series(names.MODEL_READY, **labels, pod="a")] = gauge(step, (length + step, 1))
                if requests is not None:
                    found |= _requests(step, who, (length + step, requests, 0.5))
            return found

        return make

    return _simple(
        subject,
        _series_labels(subject),
        {"few requests": traffic(0.8 * limit), "none any more": traffic(0), "none ever": traffic(None)},
        {"requests": traffic(1.2 * limit), "no server": traffic(None, ready=False) if not others else traffic(9 * limit)},
    )


# Pods and GPUs


def _pods(pattern: str) -> tuple[str, list[str]]:
    """A name that the pattern is meant to take, and names of other workloads."""
    some = re.sub(r"\([^)]*\)\?", "", pattern).replace("[a-z0-9]+", "7c9d8")
    job = pattern.split("-[a-z0-9]+")[0].split("[a-z0-9]+")[0]
    assert re.fullmatch(pattern, some), (pattern, some)
    return some, [f"{job}-{role}-7c9d8-x2k4z" for role in ("lite", names.STANDBY)] + [f"my-{job}-7c9d8-x2k4z"]


def _memory(subject: Subject) -> tuple[int, list[Scenario], list[Scenario]]:
    limit, step = subject.number(r" > ([\d.]+)$"), _clock(subject).step
    wanted = matchers(subject.expr)
    namespace = wanted["namespace"][0]
    pod, others = _pods(wanted["pod"][0])
    size = 1024.0**3

    def use(share: float, container: str = names.CONTAINER, *pods: str) -> Callable[[int], dict[str, str]]:
        def make(length: int) -> dict[str, str]:
            found = {}
            decoys = [(namespace, one, 0.99) for one in others] + [(f"{namespace}-{_DECOY}", pod, 0.99)]
            for where, name, used in [(namespace, pod, share), *decoys]:
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
        {"namespace": namespace, "pod": pod},
        {"nearly full": use(_above(limit))},
        {"room": use(0.8 * limit), "another container is full": use(0.99, "proxy")},
    )


def _gpu(subject: Subject) -> tuple[int, list[Scenario], list[Scenario]]:
    limit, step = subject.number(r" > ([\d.]+)$"), _clock(subject).step
    selector = subject.read(r"DCGM_FI_DEV_\w+(\{.*?\"\})")[0]
    wanted = matchers(selector)
    pod_label = re.findall(r'(\w+)=~"', selector)[0]
    namespace_label = next(label for label in wanted if label != pod_label)
    namespace = wanted[namespace_label][0]
    pod, others = _pods(wanted[pod_label][0])
    blank = 9223372036854775792.0
    utilization = subject.rule["alert"] == names.GPU_UTILIZATION_HIGH

    def gpu(where: str, name: str, number: str, share: float | None, length: int) -> dict[str, str]:
        labels = {namespace_label: where, pod_label: name, "gpu": number}
        used = blank if share is None else share * (100 if utilization else 79000.0)
        values = {names.GPU_UTILIZATION: used}
        if not utilization:
            free = 1000.0 if share is None else 80000 * (1 - share)
            values = {names.GPU_MEMORY_USED: used * 80 / 79 if share is not None else used}
            values |= {names.GPU_MEMORY_FREE: free, names.GPU_MEMORY_RESERVED: 0.0}
        return {series(metric, **labels): gauge(step, (length + step, value)) for metric, value in values.items()}

    def use(*shares: float | None) -> Callable[[int], dict[str, str]]:
        def make(length: int) -> dict[str, str]:
            found = {}
            for i, share in enumerate(shares):
                found |= gpu(namespace, pod, str(i), share, length)
            for i, other in enumerate(others):
                found |= gpu(namespace, other, str(8 + i), 0.999, length)
            return found | gpu(f"{namespace}-{_DECOY}", pod, "0", 0.999, length)

        return make

    high, low = _above(limit), 0.8 * limit
    mixed = {"one is idle": use(high, 0)} if utilization else {}
    return _simple(
        subject,
        {},
        {"busy": use(high, high), "one cannot tell": use(high, None)},
        {"room": use(low, low), "one cannot tell": use(low, None), "gone": lambda _: {}, **mixed},
    )


# Absence


def _absence(subject: Subject) -> tuple[int, list[Scenario], list[Scenario]]:
    wanted = matchers(subject.expr)
    namespace, job = wanted["namespace"][0], wanted["job"][0]
    every = max(1, subject.for_ // 20)
    step = min(every, MINUTE)
    for_ = subject.for_

    def up(*phases: Phase) -> dict[str, str]:
        length = sum(phase[0] for phase in phases)
        here = series(names.UP, namespace=namespace, job=job, pod="a")
        others = ((namespace, f"{job}-lite"), (namespace, f"my-{job}"), (f"{namespace}-{_DECOY}", job))
        found = {series(names.UP, namespace=n, job=j, pod="z"): gauge(step, (length, 1)) for n, j in others}
        return {here: gauge(step, *phases), **found} if phases[0][1] is not None else found

    def scenario(title: str, firing: Any, *phases: Phase, more: Mapping[str, str] | None = None) -> Scenario:
        at = sum(phase[0] for phase in phases) - step
        return Scenario(title, step, {**up(*phases), **(more or {})}, at, firing)

    me, nobody = subject.firing({}), subject.firing()
    second = {series(names.UP, namespace=namespace, job=job, pod="b"): gauge(step, (2 * for_, 1))}
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


def _outage(groups: Groups, absent: Sequence[Proof]) -> Proof:
    """All servers vanish at once: absence alone says so. And when all is well nothing fires."""
    rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    gone = [groups[proof.group]["rules"][proof.rule] for proof in absent]
    longest = max(time(rule["labels"]["window"]) + time(rule.get("for", "0s")) for rule in rules if rule not in gone) if len(gone) < len(rules) else 0
    longest = min(longest, 2 * HOUR)
    wait = max(time(rule["for"]) for rule in gone)
    every = MINUTE * max(1, (longest + wait) // (200 * MINUTE))
    well, after = 15 * MINUTE, 2 * LOOKBACK + longest + wait + 5 * every
    limits = [float(found) for rule in rules for found in re.findall(r" < ([\d.]+)$", rule["expr"])]
    rate = 10 * max([1.0, *limits])
    made: dict[str, str] = {}
    for rule in gone:
        namespace, model, job = (rule["labels"][name] for name in ("namespace", "model", "job"))
        labels = {"namespace": namespace, "model": model, "job": job, "pod": "a"}
        for name in (series(names.UP, **labels), series(names.MODEL_READY, **labels)):
            made[name] = gauge(MINUTE, (well, 1), (after, None))
        requests = series(names.REQUESTS, **labels, code="200")
        made[requests] = counter(MINUTE, (well, rate), (after, None))
    silent = {rule["alert"]: [] for rule in rules}
    firing = {**silent, names.ABSENT: [dict(rule["labels"]) for rule in gone]}
    fires = [Scenario("outage", MINUTE, made, well + after, firing)]
    peace = [Scenario("all is well", MINUTE, made, well - MINUTE, silent)]
    return Proof(f"{names.ABSENT}-outage", 0, 0, every, fires, peace, whole=True)


_KINDS: dict[str, Callable[[Subject], tuple[int, list[Scenario], list[Scenario]]]] = {
    names.ERROR_BUDGET_BURN: _burn,
    names.LATENCY_BUDGET_BURN: _burn,
    names.LATENCY_HIGH: _quantile,
    names.QUEUE_TIME_HIGH: _quantile,
    names.ERROR_RATIO_HIGH: _error_ratio,
    names.THROUGHPUT_LOW: _throughput,
    names.MEMORY_HIGH: _memory,
    names.GPU_UTILIZATION_HIGH: _gpu,
    names.GPU_MEMORY_HIGH: _gpu,
    names.ABSENT: _absence,
}
