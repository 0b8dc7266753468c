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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from modelway.lower import names
from tests.support import alert_scenarios, detector_scenarios, promtool
from tests.support.alert_scenarios import Labels, Subject, watched_in
from tests.support.series import LOOKBACK, MINUTE, Scenario, counter, gauge, series, time

Groups = list[dict[str, Any]]

KINDS = {**alert_scenarios.KINDS, **detector_scenarios.KINDS}


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


def prove(groups: Groups) -> list[Proof]:
    """A proof for each alert; KeyError for an alert that nobody has written one for."""
    found: list[Proof] = []
    for g, group in enumerate(groups):
        for r, rule in enumerate(group["rules"]):
            if "alert" in rule:
                needed = _alone(group, r)["rules"]
                records = {other["record"]: other["expr"] for other in needed if "record" in other}
                name = "-".join((rule["alert"], rule["labels"]["window"], str(len(found))))
                found.append(_proof(name, g, r, Subject(rule, records, watched_in(rule["expr"]))))
    absent = [proof for proof in found if proof.name.startswith(names.ABSENT)]
    return [*found, *([_outage(groups, absent)] if absent else [])]


def _proof(name: str, group: int, index: int, subject: Subject) -> Proof:
    """Every watched model can fire the alert; the scenarios of the first say the rest."""
    kind = KINDS[subject.rule["alert"]]
    every, fires, silent = kind(subject)
    quick = every <= 2 * MINUTE  # the longer windows of an objective watch the same models
    for i in range(1, len(subject.watched) if quick else 1):
        turned = replace(subject, watched=subject.watched[i:] + subject.watched[:i])
        fires.append(kind(turned)[1][0])
    return Proof(name, group, index, every, fires, silent)


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
    """One alert of the group with the recording rules that it reads. Those that no alert reads (the ratio
    over the period) go with the first."""
    rules = group["rules"]
    alerts = [i for i, rule in enumerate(rules) if "alert" in rule]
    read = _read(rules, [rules[index]])
    if index == alerts[0]:
        read |= _recorded(rules) - _read(rules, [rules[i] for i in alerts])
    kept = [rule for i, rule in enumerate(rules) if i == index or rule.get("record") in read]
    return {**group, "rules": kept}


def _recorded(rules: Sequence[dict[str, Any]]) -> set[str]:
    return {rule["record"] for rule in rules if "record" in rule}


def _read(rules: Sequence[dict[str, Any]], by: Sequence[dict[str, Any]]) -> set[str]:
    """The recorded series that rules read, and those that are read for them."""
    found: set[str] = set()
    todo = [rule["expr"] for rule in by]
    while todo:
        read = set(re.findall(r"model:\w+:\w+", todo.pop())) - found
        found |= read
        todo += [rule["expr"] for rule in rules if rule.get("record") in read]
    return found


def _without_annotations(rule: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in rule.items() if key != "annotations"}


def _outage(groups: Groups, absent: Sequence[Proof]) -> Proof:
    """All servers vanish at once: absence alone says so. And when all is well nothing fires."""
    rules = [rule for group in groups for rule in group["rules"] if "alert" in rule]
    gone = [groups[proof.group]["rules"][proof.rule] for proof in absent]
    holds = [time(rule["labels"]["window"]) + time(rule.get("for", "0s")) for rule in rules if "for" in rule]
    longest, wait = max(holds), max(time(rule["for"]) for rule in gone)
    every = MINUTE * max(1, (longest + wait) // (200 * MINUTE))
    well, after = 15 * MINUTE + longest, 2 * LOOKBACK + longest + wait + 5 * every
    limits = [float(found) for rule in rules for found in re.findall(r" < ([\d.]+)$", rule["expr"])]
    rate = 10 * max([1.0, *limits])
    made: dict[str, str] = {}
    for rule in gone:
        namespace, model, job = (rule["labels"][name] for name in ("namespace", "model", "job"))
        labels = {"namespace": namespace, "model": model, names.JOB: job, names.POD_NAME: job, "pod": "a"}
        for name in (series(names.UP, **labels), series(names.MODEL_READY, **labels)):
            made[name] = gauge(MINUTE, (well, 1), (after, None))
        requests = series(names.REQUESTS, **labels, code="200")
        made[requests] = counter(MINUTE, (well, rate), (after, None))
    silent: dict[str, list[Labels]] = {rule["alert"]: [] for rule in rules}
    firing = {**silent, names.ABSENT: [dict(rule["labels"]) for rule in gone]}
    fires = [Scenario("outage", MINUTE, made, well + after, firing)]
    peace = [Scenario("all is well", MINUTE, made, well - MINUTE, silent)]
    return Proof(f"{names.ABSENT}-outage", 0, 0, every, fires, peace, whole=True)
