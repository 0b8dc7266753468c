"""What must make the alerts of the detector fire, and what must not: on its verdicts and on itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from modelway.lower import names
from tests.support.alert_scenarios import Labels, Proved, Subject, absence
from tests.support.series import LOOKBACK, MINUTE, Phase, Scenario, counter, gauge, matchers, series


def _whose(subject: Subject) -> Labels:
    """The labels of the detector's series; of several models the first that is watched."""
    wanted = matchers(subject.expr)
    return {"namespace": wanted["namespace"][0], "job": wanted["job"][0], "model": subject.watched[0][1]}


def _others(labels: Labels) -> list[Labels]:
    """Series of other models, other jobs and other namespaces."""
    return [{**labels, name: f"{labels[name]}-another"} for name in ("namespace", "job", "model")]


def _regressed(subject: Subject) -> Proved:
    labels, window = _whose(subject), subject.window
    me, nobody = subject.firing({}), subject.firing()

    def verdicts(state: str, pod: str, *phases: Phase, of: Labels = labels) -> dict[str, str]:
        return {series(names.VERDICTS, **of, state=state, pod=pod): gauge(MINUTE, *phases)}

    def scenario(title: str, firing: Mapping[str, list[Labels]], *parts: dict[str, str], at: int) -> Scenario:
        made = {name: values for part in parts for name, values in part.items()}
        return Scenario(title, MINUTE, made, at, firing)

    before, after = (2 * window, 0.0), (2 * window, 1.0)
    soon = 2 * window + 2 * MINUTE
    strangers = [verdicts("regressed", "a", before, after, of=other) for other in _others(labels)]
    fires = [
        scenario("a verdict", me, verdicts("regressed", "a", before, after), *strangers, at=soon),
        scenario("the first at all", me, verdicts("regressed", "a", (2 * window, None), after), at=soon),
        scenario(
            "in another pod",
            me,
            verdicts("regressed", "a", (2 * window, 3.0)),
            verdicts("regressed", "b", (2 * window, None), after),
            at=soon,
        ),
    ]
    silent = [
        scenario("none", nobody, verdicts("regressed", "a", (4 * window, 0.0)), *strangers, at=soon),
        scenario("long ago", nobody, verdicts("regressed", "a", before, after), at=4 * window - MINUTE),
        scenario("of another state", nobody, verdicts("improved", "a", before, after), at=soon),
        scenario(
            "a new pod begins at nothing",
            nobody,
            verdicts("regressed", "a", (2 * window, 3.0)),
            verdicts("regressed", "b", (2 * window, None), (2 * window, 0.0)),
            at=soon,
        ),
    ]
    return MINUTE, fires, silent


def _stale(subject: Subject) -> Proved:
    """The metric is the time of the last success, and promtool's clock begins at zero: while it is looked,
    the value rises by one a second."""
    labels, for_ = _whose(subject), subject.for_
    limit = int(1000 * subject.number(r" < ([\d.]+)\)$"))
    every = max(1, for_ // 20)
    step = min(every, MINUTE)

    def scenario(title: str, firing: Mapping[str, list[Labels]], *phases: Phase) -> Scenario:
        length = sum(phase[0] for phase in phases)
        made = {
            series(names.LAST_SUCCESS, **other): counter(step, (length, 1.0)) for other in _others(labels)
        }
        if phases[0][1] is not None:
            made[series(names.LAST_SUCCESS, **labels)] = counter(step, *phases)
        return Scenario(title, step, made, length - step, firing)

    me, nobody = subject.firing({}), subject.firing()
    late = limit + for_ + 4 * every
    return (
        every,
        [
            scenario("it stopped", me, (for_, 1.0), (late, 0.0)),
            scenario("never", me, (for_ + 4 * every, None)),
            scenario("gone", me, (for_, 1.0), (LOOKBACK + for_ + 4 * every, None)),
        ],
        [
            scenario("it looks", nobody, (2 * (limit + for_), 1.0)),
            scenario("it is late", nobody, (for_, 1.0), (limit + for_ * 6 // 10, 0.0)),
            scenario("it looks again", nobody, (for_, 1.0), (limit // 2, 0.0), (for_, 1.0)),
        ],
    )


def _gaps(subject: Subject) -> Proved:
    labels, limit = _whose(subject), subject.number(r" > ([\d.]+)$")
    for_, every = subject.for_, max(MINUTE, subject.for_ // 60)
    me = subject.firing({name: labels[name] for name in ("namespace", "model")})

    def scenario(title: str, firing: Mapping[str, list[Labels]], *phases: Phase) -> Scenario:
        length = sum(phase[0] for phase in phases)
        made = {
            series(names.MISSING_RATIO, **other, pod="a"): gauge(MINUTE, (length, 1.0))
            for other in _others(labels)
        }
        made[series(names.MISSING_RATIO, **labels, pod="a")] = gauge(MINUTE, *phases)
        return Scenario(title, MINUTE, made, length - MINUTE, firing)

    nobody = subject.firing()
    return (
        every,
        [scenario("gaps", me, (for_ + 4 * every, 1.2 * limit))],
        [
            scenario("few gaps", nobody, (2 * for_, 0.8 * limit)),
            scenario("not for long", nobody, (for_, 0.0), (for_ * 6 // 10, 1.0)),
        ],
    )


KINDS: dict[str, Callable[[Subject], Proved]] = {
    names.REGRESSED: _regressed,
    names.DETECTOR_STALE: _stale,
    names.DETECTOR_ABSENT: absence,
    names.DETECTOR_GAPS: _gaps,
}
