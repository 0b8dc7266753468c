"""Gates of a release: none passes without evidence, whatever is measured in whatever order."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from modelway.lower import names
from tests.lower.clusters import (
    Cluster,
    canaries,
    gate_limit,
    gate_metrics,
    gate_query,
    having,
    inside,
    rollouts,
    templates,
)
from tests.lower.rollouts import (
    ERROR,
    FAILED,
    INCONCLUSIVE,
    RUNNING,
    SUCCESSFUL,
    Tally,
    assess,
    go_duration,
    outcomes,
    phase,
    run,
)
from tests.support import promtool
from tests.support.checking import every
from tests.support.series import MINUTE, counter, series

Json = dict[str, Any]


@having("rollouts")
def test_metrics_of_gates_are_valid(cluster: Cluster) -> None:
    """What the controller refuses or never ends, and no schema shows."""
    for _, metric, waited in every(gate_metrics(cluster)):
        count = metric.get("count", 0)
        if count:
            assert count >= metric["failureLimit"] + metric["consecutiveSuccessLimit"]
            assert count >= metric["inconclusiveLimit"]
        if count > 1 or not count:
            assert go_duration(metric["interval"]) > 0
        assert len(metric["provider"]) == 1
        assert metric["failureLimit"] >= 0
        assert metric["inconclusiveLimit"] >= 1
        assert metric["consecutiveErrorLimit"] >= 1
        if waited:
            assert count, "an inline metric without a count never ends"
            assert metric["consecutiveSuccessLimit"] > 0
        if "initialDelay" in metric:
            assert go_duration(metric["initialDelay"]) > 0


def waited_gates(cluster: Cluster) -> list[tuple[Json, Json]]:
    """(template, metric) of the gates that something waits for."""
    return [(one, metric) for one, metric, waited in gate_metrics(cluster) if waited]


GOOD, BAD = 0.0, 1e9
NOTHING: tuple[tuple[str, list[list[float] | None]], ...] = (
    ("no series", [[]]),
    ("NaN", [[math.nan]]),
    ("no series and NaN by turns", [[], [math.nan]]),
    ("the provider fails", [None]),
    ("the provider fails now and then", [None, []]),
    ("nothing, and too few good ones", [[], [GOOD], [GOOD], [GOOD], [GOOD]]),
    ("good and bad by turns", [[GOOD], [BAD]]),
    ("good, then nothing", [[GOOD], [GOOD], [GOOD], [GOOD], [], [], [], [], [], []]),
    ("bad", [[BAD]]),
)


@having("rollouts")
@pytest.mark.parametrize(("what", "results"), NOTHING, ids=[what for what, _ in NOTHING])
def test_no_gate_passes_without_evidence(
    cluster: Cluster, what: str, results: list[list[float] | None]
) -> None:
    for one, metric in every(waited_gates(cluster)):
        found = run(metric, results)
        ends = (FAILED, INCONCLUSIVE) if results != [None] else (RUNNING,)
        assert found in ends, f"{one['metadata']['name']}: {what} is {found}"


@having("rollouts")
def test_every_gate_passes_with_evidence_and_fails_against_it(cluster: Cluster) -> None:
    every(waited_gates(cluster))
    for one, metric, waited in every(gate_metrics(cluster)):
        if waited:
            assert run(metric, [[GOOD]]) == SUCCESSFUL, one["metadata"]["name"]
            assert run(metric, [[], [GOOD], [GOOD], [GOOD], [GOOD], [GOOD]]) == SUCCESSFUL
        assert run(metric, [[BAD]]) == FAILED, one["metadata"]["name"]
        assert run(metric, [[]]) == (INCONCLUSIVE if waited else RUNNING)


@having("rollouts")
def test_whatever_is_measured_success_has_seen_five_good_looks(cluster: Cluster) -> None:
    """All ends of all runs, not only those above."""
    for one, metric in every(waited_gates(cluster)):
        ends = list(outcomes({**metric, "consecutiveErrorLimit": 3}))  # as few as show what many come to
        assert {end for end, _ in ends} == {SUCCESSFUL, FAILED, INCONCLUSIVE, ERROR}
        for end, tally in ends:
            if end == SUCCESSFUL:
                assert tally.successes >= tally.successes_in_a_row >= 5, one["metadata"]["name"]
                assert tally.failed <= metric["failureLimit"]
            assert tally.count <= metric["count"]


@having("rollouts")
def test_a_watch_never_ends_well_by_itself(cluster: Cluster) -> None:
    """It may abort or pause; that the steps went through is for the gates to say."""
    limits = {
        json.dumps(
            {key: value for key, value in metric.items() if key.endswith("Limit") or key == "interval"}
        )
        for _, metric, waited in gate_metrics(cluster)
        if not waited
    }
    for metric in map(json.loads, every(limits)):
        tallies, seen = [Tally()], {Tally()}
        while tallies:
            tally = tallies.pop()
            found = assess(metric, tally)
            assert found != SUCCESSFUL
            if found == RUNNING and tally.count < 15 and tally.errors_in_a_row < 3:
                for measured in (SUCCESSFUL, FAILED, INCONCLUSIVE, ERROR):
                    following = tally.after(measured)
                    if following not in seen:
                        seen.add(following)
                        tallies.append(following)


@having("rollouts")
def test_every_weight_has_its_gate(cluster: Cluster) -> None:
    """A background analysis alone is Successful where it was stopped before it looked."""
    for work, canary in every(canaries(cluster)):
        kinds = [next(iter(step)) for step in canary["steps"]]
        gated = "analysis" in kinds
        assert gated == ("analysis" in canary)
        parts = "".join({"setWeight": "w", "pause": "p", "analysis": "g"}[kind] for kind in kinds)
        assert re.fullmatch(r"(wp?g)+" if gated else r"(wp?)+", parts), f"{work.name}: {parts}"
        if gated:
            assert 0 <= canary["analysis"]["startingStep"] < len(kinds)


@having("rollouts")
def test_analyses_get_the_arguments_that_they_take(cluster: Cluster) -> None:
    for work in every(rollouts(cluster)):
        for one in inside(work.spec["strategy"]):
            if "templates" not in one:
                continue
            wanted: dict[str, None] = {}
            for reference in one["templates"]:
                found = cluster.get("AnalysisTemplate", work.namespace, reference["templateName"])
                assert found is not None, reference
                wanted |= {arg["name"]: None for arg in found["spec"]["args"] if "valueFrom" not in arg}
            assert [arg["name"] for arg in one["args"]] == list(wanted)
            for arg in one["args"]:
                which = {"canary-hash": "Latest", "stable-hash": "Stable"}[arg["name"]]
                assert arg["valueFrom"] == {"podTemplateHashValue": which}


@having("rollouts")
def test_every_template_is_used(cluster: Cluster) -> None:
    used = {
        (work.namespace, reference["templateName"])
        for work in rollouts(cluster)
        for one in inside(work.spec["strategy"])
        for reference in one.get("templates", ())
        if isinstance(reference, dict) and "templateName" in reference
    }
    assert used == {(one["metadata"]["namespace"], one["metadata"]["name"]) for one in templates(cluster)}


@having("rollouts")
def test_gates_ask_for_the_new_pods_of_the_model(cluster: Cluster) -> None:
    for one, metric, _ in every(gate_metrics(cluster)):
        meta = one["metadata"]
        work = cluster.workload(meta["namespace"], meta["labels"][names.NAME])
        wanted = f'namespace="{meta["namespace"]}",model="{work.settings["model"]}"'
        for selector in re.findall(r"\{([^}]*)\}", gate_query(metric)):
            assert selector.startswith(wanted), selector
            assert 'rollouts_pod_template_hash="5d5f7c9b6"' in selector
        address = metric["provider"]["prometheus"]["address"]
        assert address == cluster.spec["monitoring"].get("prometheus", "http://prometheus.monitoring:9090")


def _gate_cases(metric: Json) -> Iterator[tuple[str, dict[str, str], int]]:
    """(title, series, how many answers): none without enough traffic of the new pods, else one."""
    text = gate_query(metric)
    namespace, model = re.findall(r'namespace="([^"]+)",model="([^"]+)"', text)[0]
    least = float(re.findall(r"> ([\d.]+)\)", text)[0])
    limit = gate_limit(metric)
    new, old = "5d5f7c9b6", "77c8d9"

    def traffic(hash_: str, rate: float, bad: float | None = None, who: str = model) -> dict[str, str]:
        of = {
            "namespace": namespace,
            "model": who,
            "rollouts_pod_template_hash": hash_,
            "pod": f"{who}-{hash_}",
        }
        found = {
            series(names.REQUESTS, **of, code="200"): counter(MINUTE, (40 * MINUTE, rate * (1 - (bad or 0))))
        }
        if bad is not None:
            found[series(names.REQUESTS, **of, code="503")] = counter(MINUTE, (40 * MINUTE, rate * bad))
        slow = 0.0 if bad is None else bad
        for name in (names.DURATION, names.QUEUE_DURATION):
            for bound, share in ((limit / 2, 1 - slow), (limit, 1 - slow), (2 * limit, 1.0), (math.inf, 1.0)):
                le = "+Inf" if math.isinf(bound) else repr(bound)
                found[series(f"{name}_bucket", **of, le=le)] = counter(MINUTE, (40 * MINUTE, rate * share))
        return found

    enough, few = 2 * least, least / 2
    yield "no series at all", {}, 0
    yield "only the old pods are asked", traffic(old, enough), 0
    yield "the new pods are never asked", traffic(old, enough) | traffic(new, 0.0), 0
    yield "the new pods are asked too little", traffic(old, enough) | traffic(new, few), 0
    yield "another model has the hash", traffic(new, enough, who=f"{model}-lite"), 0
    yield "the new pods never failed", traffic(old, enough, 1.0) | traffic(new, enough), 1
    yield "the new pods fail", traffic(old, enough) | traffic(new, enough, 1.0), -1


CONDITIONS = ("successCondition", "failureCondition")


def _compared(condition: str) -> str:
    """``<= 0.01``: what the result is compared with."""
    found = re.search(r"result\[0\] ((?:<=|>=|<|>) [\d.]+)$", condition)
    assert found, condition
    return found[1]


@having("rollouts")
def test_gates_ask_promql_that_tells_good_from_bad_from_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """What Prometheus answers: nothing without traffic, a number within the limit, or one beyond it."""
    tests = []
    for one, metric, _ in every(gate_metrics(cluster)):
        text, good, bad = gate_query(metric), *(_compared(metric[one]) for one in CONDITIONS)
        for title, data, answer in _gate_cases(metric):
            asked = [(f"count({text}) or vector(0)", abs(answer))]
            asked.append((f"count(({text}) {good}) or vector(0)", int(answer == 1)))
            asked.append((f"count(({text}) {bad}) or vector(0)", int(answer == -1)))
            tests.append(
                {
                    "name": f"{one['metadata']['name']} {metric['name']}: {title}",
                    "interval": "1m",
                    "input_series": [{"series": name, "values": values} for name, values in data.items()],
                    "promql_expr_test": [
                        {"expr": expr, "eval_time": "35m", "exp_samples": [{"labels": "{}", "value": value}]}
                        for expr, value in asked
                    ],
                }
            )
    path = tmp_path / "gates.yml"
    path.write_text(json.dumps({"rule_files": [], "evaluation_interval": "1m", "tests": tests}))
    assert not promtool.failed_tests([path]), promtool.explain(path)


@pytest.mark.parametrize(
    ("condition", "results"),
    [
        ({"successCondition": "result[0] <= 1"}, (FAILED, ERROR)),
        ({"failureCondition": "result[0] > 1"}, (SUCCESSFUL, ERROR)),
        (
            {
                "successCondition": "len(result) > 0 && !isNaN(result[0]) && result[0] <= 1",
                "failureCondition": "len(result) > 0 && !isNaN(result[0]) && result[0] > 1",
            },
            (INCONCLUSIVE, INCONCLUSIVE),
        ),
    ],
    ids=["only success", "only failure", "both, guarded"],
)
def test_the_truth_table_of_the_reference(condition: Json, results: tuple[str, str]) -> None:
    assert (phase(condition, [math.nan]), phase(condition, [])) == results
    ten = {
        "count": 10,
        "interval": "60s",
        "failureLimit": 10,
        "inconclusiveLimit": 10,
        "consecutiveErrorLimit": 99,
    }
    nothing = [INCONCLUSIVE] * 10
    tally = Tally()
    for measured in nothing:
        tally = tally.after(measured)
    assert assess(ten, tally) == SUCCESSFUL
    assert assess({**ten, "consecutiveSuccessLimit": 5}, tally) == INCONCLUSIVE
    assert assess({**ten, "consecutiveSuccessLimit": 5, "failureLimit": -1}, tally) == FAILED
    assert assess({"interval": "60s"}, Tally(), terminating=True) == SUCCESSFUL
    assert assess({**ten, "inconclusiveLimit": 3, "failureLimit": 0}, tally.after(FAILED)) == INCONCLUSIVE
