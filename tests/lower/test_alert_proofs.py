"""Every alert has a promtool test that makes it fire and one that keeps it silent, and the tests notice
when a rule is wrong."""

from __future__ import annotations

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelway.lower import names
from tests.support import promtool
from tests.support.alert_examples import EXAMPLES, Example, alerts
from tests.support.alert_proofs import Groups, Proof, failures, prove, write


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_alerts_fire_and_stay_silent(example: Example, tmp_path: Path) -> None:
    groups = example.groups
    proofs = prove(groups)
    assert len([proof for proof in proofs if not proof.whole]) == len(alerts(groups))
    assert all(proof.fires and proof.silent for proof in proofs)
    assert failures(proofs, groups, tmp_path) == []


@pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)
def test_firing_alerts_have_the_labels_that_inhibition_compares(example: Example) -> None:
    """promtool compares all labels of what fires with these."""
    for proof in prove(example.groups):
        for scenario in proof.fires:
            for firing in scenario.firing.values():
                assert all({"namespace", "model", "slo"} <= labels.keys() for labels in firing)


def test_an_unknown_alert_is_not_proved() -> None:
    groups = [{"name": "x", "rules": [{"alert": "New", "expr": "up == 0", "labels": {"window": "5m"}}]}]
    with pytest.raises(KeyError):
        prove(groups)


# Wrong rules: (alert, window, what is wrong, in what the alert or its recording rules say, what it becomes)
_BURN, _SLOW = names.ERROR_BUDGET_BURN, names.LATENCY_BUDGET_BURN
MUTANTS = [
    (_BURN, "1h", "429 is no failure", r"5\.\.\|429", "5.."),
    (_BURN, "1h", "only 429 is a failure", r"5\.\.\|429", "429"),
    (_BURN, "1h", "the caller's faults count", r"5\.\.\|429", "[45].."),
    (_BURN, "1h", "every request is bad", r",code=~\"[^\"]+\"", ""),
    (_BURN, "1h", "of all models", r"(rate\(inference_requests_total\{[^}]*),model=\"ranker\"", r"\1"),
    (_BURN, "1h", "of all namespaces", r"(rate\(inference\w+\{)namespace=\"search-prod\",", r"\1"),
    (_BURN, "1h", "no ratio before the first failure", r" or 0 \* .*", ""),
    (_BURN, "1h", "0/0", r" / \((.*) > 0\)$", r" / (\1)"),
    (_BURN, "3d", "0/0", r" / \((sum_over_time.*) > 0\)$", r" / (\1)"),
    (_BURN, "6h", "long window of requests", r"(requests:rate5m\{[^}]*\}\[)6h", r"\g<1>5m"),
    (_BURN, "1h", "long for short", r"rate5m(\{.* > 14)", r"rate1h\1"),
    (_BURN, "1h", "short for long", r"rate1h(\{.* > 14)", r"rate5m\1"),
    (_BURN, "3d", "long for short", r"rate6h(\{.* > 1 )", r"rate3d\1"),
    (_SLOW, "1h", "another bucket above", r'le="0.25"', 'le="0.5"'),
    (_SLOW, "1h", "another bucket below", r'le="0.25"', 'le="0.125"'),
    (_SLOW, "1h", "no such bucket", r'le="0.25"', 'le="0.250"'),
    (_SLOW, "1h", "another histogram", "inference_request_duration", "inference_queue_duration"),
    (_SLOW, "1h", "servers without it count", r" - ignoring \(le\) ", ") - sum by (namespace, model) ("),
    (names.LATENCY_HIGH, "5m", "another quantile", r"quantile\(0.99", "quantile(0.9"),
    (names.LATENCY_HIGH, "5m", "another quantile", r"quantile\(0.99", "quantile(0.999"),
    (names.LATENCY_HIGH, "5m", "another histogram", "request_duration", "queue_duration"),
    (names.QUEUE_TIME_HIGH, "5m", "another histogram", "queue_duration", "request_duration"),
    (names.LATENCY_HIGH, "5m", "not by model", r"\(namespace, model, le\)", "(le)"),
    (names.ERROR_RATIO_HIGH, "5m", "429 is no failure", r"5\.\.\|429", "5.."),
    (names.ERROR_RATIO_HIGH, "5m", "the caller's faults count", r"5\.\.\|429", "[45].."),
    (names.ERROR_RATIO_HIGH, "5m", "of all models", r",model=\"ranker\"", ""),
    (names.THROUGHPUT_LOW, "5m", "a server that was never asked", r" or 0 \* .*\}\)\)", ")"),
    (names.THROUGHPUT_LOW, "5m", "of the busiest pod", r"sum( by \(namespace, model\) \(rate)", r"max\1"),
    (names.MEMORY_HIGH, "5m", "pods of others", r"\[a-z0-9\]\+-\[a-z0-9\]\+", ".*"),
    (names.MEMORY_HIGH, "5m", "other containers", r",container=\"server\"", ""),
    (names.MEMORY_HIGH, "5m", "another resource", 'resource="memory"', 'resource="cpu"'),
    (names.MEMORY_HIGH, "5m", "other namespaces", r'namespace="search-prod",', ""),
    (names.GPU_UTILIZATION_HIGH, "5m", "blanks count", " <= 100", ""),
    (names.GPU_UTILIZATION_HIGH, "5m", "percent for a share", " / 100 ", " "),
    (names.GPU_UTILIZATION_HIGH, "5m", "the busiest", r"avg\(avg", "max(avg"),
    (names.GPU_UTILIZATION_HIGH, "5m", "pods of others", r"\[a-z0-9\]\+-\[a-z0-9\]\+", ".*"),
    (names.GPU_MEMORY_HIGH, "5m", "blanks count", " < 1e9", ""),
    (names.GPU_MEMORY_HIGH, "5m", "reserved memory is free", r" \+ \w+RESERVED\{[^}]*\}", ""),
    (names.GPU_MEMORY_HIGH, "5m", "the mean", r"max\(avg", "avg(avg"),
    (names.ABSENT, "10m", "down is there", " == 1", ""),
    (names.ABSENT, "10m", "another job", 'job="ranker"', 'job=~"ranker.*"'),
    (names.ABSENT, "10m", "another namespace", 'namespace="search-prod",', ""),
]  # fmt: skip


@pytest.fixture(scope="module")
def groups() -> Groups:
    return EXAMPLES["everything"].groups


@pytest.fixture(scope="module")
def proofs(groups: Groups) -> dict[tuple[str, str], Proof]:
    return {
        (rule["alert"], rule["labels"]["window"]): proof
        for proof in prove(groups)
        if "expr" in (rule := groups[proof.group]["rules"][proof.rule]) and not proof.whole
    }


@pytest.mark.parametrize(
    ("alert", "window", "what", "pattern", "replacement"),
    MUTANTS,
    ids=[f"{m[0]}-{m[1]}-{m[2]}" for m in MUTANTS],
)
def test_a_wrong_rule_fails_its_proof(
    groups: Groups,
    proofs: dict[tuple[str, str], Proof],
    tmp_path: Path,
    alert: str,
    window: str,
    what: str,
    pattern: str,
    replacement: str,
) -> None:
    proof = proofs[alert, window]
    wrong = copy.deepcopy(groups)
    for i, rule in enumerate(wrong[proof.group]["rules"]):
        if i == proof.rule or "record" in rule:
            rule["expr"] = re.sub(pattern, replacement, rule["expr"])
    assert wrong != groups, "the mutation changes nothing"
    assert promtool.failed_tests(write(proof, wrong, tmp_path))


def _slips(rule: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every number of a rule doubled and halved, every comparison turned round, every condition left out,
    the time that it must hold doubled and left out."""
    expr = rule["expr"]
    for found in re.finditer(r"[<>] (\d[\d.]*)(?![\d.e])", expr):
        for factor in (2, 0.5):
            text = f"{float(found[1]) * factor:.12g}"
            yield (
                f"{found[0]} times {factor}",
                {**rule, "expr": expr[: found.start(1)] + text + expr[found.end(1) :]},
            )
    for found in re.finditer(r"[<>](?= \d[\d.]*(?![\d.e]))", expr):
        turned = "<" if found[0] == ">" else ">"
        yield (
            f"{found.start()} turned",
            {**rule, "expr": expr[: found.start()] + turned + expr[found.end() :]},
        )
    lines = expr.split("\n")
    for i, line in enumerate(lines):
        if line.startswith("and "):
            yield f"without {line}", {**rule, "expr": "\n".join(lines[:i] + lines[i + 1 :])}
    if "for" in rule:
        yield "at once", {**rule, "for": "0s"}
        yield "later", {**rule, "for": f"{2 * int(rule['for'][:-1])}{rule['for'][-1]}"}


@pytest.mark.parametrize(
    "key",
    [
        *(
            (_BURN, "1h"),
            (_BURN, "3d"),
            (_SLOW, "1h"),
            (names.LATENCY_HIGH, "5m"),
            (names.QUEUE_TIME_HIGH, "5m"),
        ),
        *((names.ERROR_RATIO_HIGH, "5m"), (names.THROUGHPUT_LOW, "5m"), (names.MEMORY_HIGH, "5m")),
        *((names.GPU_UTILIZATION_HIGH, "5m"), (names.GPU_MEMORY_HIGH, "5m"), (names.ABSENT, "10m")),
    ],
    ids="-".join,
)
def test_every_slip_is_noticed(
    groups: Groups, proofs: dict[tuple[str, str], Proof], tmp_path: Path, key: tuple[str, str]
) -> None:
    proof = proofs[key]
    written: dict[str, list[Path]] = {}
    for i, (what, wrong) in enumerate(_slips(groups[proof.group]["rules"][proof.rule])):
        folder = tmp_path / str(i)
        folder.mkdir()
        mutated = list(groups)
        rules = list(groups[proof.group]["rules"])
        rules[proof.rule] = wrong
        mutated[proof.group] = {**groups[proof.group], "rules": rules}
        written[what] = write(proof, mutated, folder)
    assert len(written) >= 2
    failed = set(promtool.failed_tests([path for paths in written.values() for path in paths]))
    assert [what for what, paths in written.items() if not failed & set(paths)] == []
