"""Alerts of the detector: each is proved, and each proof notices a wrong rule."""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from modelway.lower import names
from modelway.lower.detector_rules import rule_groups
from modelway.resolve import Deployed, Resolved
from modelway.spec.alert import Pattern
from modelway.spec.detector import Detector
from modelway.spec.model import Model
from modelway.watching import WatchedModel
from tests.support import promtool
from tests.support.alert_examples import Example
from tests.support.alert_proofs import Groups, Proof, failures, prove, write


def watched(name: str, team: str = "search") -> WatchedModel:
    spec = {
        "version": "1",
        "artifact": {"uri": "s3://models/a.onnx", "format": "onnx"},
        "serving": {"resource": "cpu"},
    }
    model = msgspec.convert({"metadata": {"name": name, "team": team}, "spec": spec}, Model)
    deployment = Deployed(name, Resolved(f"{team}/{name}", model, None))  # type: ignore[arg-type]
    return WatchedModel(deployment, {"slower": Pattern(metric="latency")}, "warning", ("notify",))


def own(**detector: Any) -> Groups:
    """The rules of a detector that watches two models."""
    found = msgspec.convert(detector, Detector)
    return rule_groups(found, [watched("ranker"), watched("encoder")], "prod", names.JOB)


PATTERNS = {"patterns": {"slower": {"metric": "latency"}}, "severity": "critical"}
RULES: dict[str, Groups] = {
    "own": own(),
    "own, seldom": own(staleAfter="2d", schedule="0 3 * * *"),
    "own, at once": own(staleAfter="1m"),
    "verdicts": Example(PATTERNS).groups,
}


@pytest.mark.parametrize("groups", RULES.values(), ids=RULES)
def test_they_fire_and_stay_silent(groups: Groups, tmp_path: Path) -> None:
    proofs = prove(groups)
    assert proofs
    assert all(proof.fires and proof.silent for proof in proofs)
    assert failures(proofs, groups, tmp_path) == []


def test_a_detector_that_only_answers_cannot_be_stale() -> None:
    (group,) = own(schedule="never")
    assert [rule["alert"] for rule in group["rules"]] == [names.DETECTOR_ABSENT]


def test_nobody_is_told_where_nobody_looks_or_wants_to_know() -> None:
    assert Example({**PATTERNS, "response": {"notify": False, "rollback": True}}).groups == []
    assert Example(PATTERNS, looks=False).groups == []


MUTANTS = [
    (names.REGRESSED, "any state", r',state="regressed"', ""),
    (names.REGRESSED, "any model", r',model="ranker"', ""),
    (names.REGRESSED, "any job", r',job="detector"', ""),
    (names.REGRESSED, "any namespace", r'namespace="modelway-prod",', ""),
    (names.REGRESSED, "not the first", r"\nor .*", ")"),
    (names.REGRESSED, "not the next", r"^sum\(.*\nor ", "sum("),
    (names.REGRESSED, "for ever", r" unless .*\)\)", "))"),
    (names.REGRESSED, "zero counts", r" > 0 unless", " >= 0 unless"),
    (names.DETECTOR_STALE, "any model", r',model="ranker"', ""),
    (names.DETECTOR_STALE, "any job", r',job="detector"', ""),
    (names.DETECTOR_STALE, "sooner", r"< 1800", "< 600"),
    (names.DETECTOR_STALE, "later", r"< 1800", "< 3600"),
    (names.DETECTOR_STALE, "there at all", r"time\(\) - (.*) < 1800", r"\1"),
    (names.DETECTOR_ABSENT, "down is there", r" == 1", ""),
    (names.DETECTOR_ABSENT, "any job", r',job="detector"', ""),
    (names.DETECTOR_GAPS, "few", r"> 0.25", "> 0.125"),
    (names.DETECTOR_GAPS, "many", r"> 0.25", "> 0.5"),
    (names.DETECTOR_GAPS, "any model", r',model=~"[^"]*"', ""),
    (names.DETECTOR_GAPS, "not by model", r"by \(namespace, model\) ", ""),
]


@pytest.mark.parametrize(
    ("alert", "what", "pattern", "replacement"), MUTANTS, ids=[f"{one[0]}-{one[1]}" for one in MUTANTS]
)
def test_a_wrong_rule_fails_its_proof(
    alert: str, what: str, pattern: str, replacement: str, tmp_path: Path
) -> None:
    groups = RULES["verdicts" if alert == names.REGRESSED else "own"]
    proofs: list[Proof] = [
        proof for proof in prove(groups) if groups[proof.group]["rules"][proof.rule]["alert"] == alert
    ]
    proof = proofs[0]
    wrong = copy.deepcopy(groups)
    rule = wrong[proof.group]["rules"][proof.rule]
    rule["expr"] = re.sub(pattern, replacement, rule["expr"])
    assert wrong != groups, "the mutation changes nothing"
    assert promtool.failed_tests(write(proof, wrong, tmp_path))
