"""What ``rule_groups`` writes. When its alerts fire is proved in ``test_alert_proofs.py``."""

from __future__ import annotations

import json
import random
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modelway.lower import names, slo
from modelway.lower.alerts import Watched, rule_groups
from modelway.lower.promql import bucket, number, one_of, quote, seconds, text_of_user
from modelway.spec.environment import Monitoring
from tests.support import promtool
from tests.support.alert_examples import (
    EXAMPLES,
    LITE,
    OBJECTIVES,
    RANKER,
    THRESHOLDS,
    Example,
    alert,
    alerts,
    rules,
)
from tests.support.promql import foreign, selectors

each_example = pytest.mark.parametrize("example", EXAMPLES.values(), ids=EXAMPLES)


def everything() -> list[dict[str, Any]]:
    return EXAMPLES["everything"].groups


def exprs(groups: list[dict[str, Any]], name: str) -> list[str]:
    return [rule["expr"] for rule in rules(groups, name)]


# Numbers


@pytest.mark.parametrize(
    ("period", "rates"),
    [("30d", ["14.4", "6", "3", "1"]), ("28d", ["13.44", "5.6", "2.8", "0.933333"])],
)
def test_burn_rates_are_budget_share_times_period_by_long_window(period: str, rates: list[str]) -> None:
    """Google SRE workbook, chapter 5, table 5-8, and the same shares of four weeks."""
    assert [text for _, _, text in slo.factors(period)] == rates


@pytest.mark.parametrize(
    ("target", "share"),
    [
        (99.9, "0.001"), (99.95, "0.0005"), (99.99999, "0.0000001"), (99, "0.01"),
        (97.5, "0.025"), (99.3, "0.007"), (50, "0.5"),
    ],
)  # fmt: skip
def test_the_budget_is_exact(target: float, share: str) -> None:
    groups = Example({"objectives": {"availability": {"target": target}}}).groups
    last = exprs(groups, names.ERROR_BUDGET_BURN)[-1]
    assert f"> 1 * {share}\n" in last


@given(st.floats(min_value=0, max_value=1e12, allow_nan=False))
def test_numbers_are_what_was_written(value: float) -> None:
    text = number(value)
    assert re.fullmatch(r"[0-9]+(\.[0-9]*[1-9])?", text)
    assert Decimal(text) == Decimal(repr(value))


@pytest.mark.parametrize(
    ("milliseconds", "time", "le"),
    [
        (250, "0.25", "0.25"), (1000, "1", "1.0"), (10_000, "10", "10.0"), (1, "0.001", "0.001"),
        (1500, "1.5", "1.5"), (999_999_000, "999999", "999999.0"),
        (1_000_000_000, "1000000", "1e+06"), (86_400_000_000, "86400000", "8.64e+07"),
    ],
)  # fmt: skip
def test_buckets_are_floats_as_prometheus_client_writes_them(milliseconds: int, time: str, le: str) -> None:
    assert seconds(milliseconds) == time
    assert bucket(milliseconds) == le


def test_pairs_that_no_outage_can_reach_are_left_out() -> None:
    """With a budget of half of the requests, a total outage burns it at a rate of 2."""
    groups = EXAMPLES["large budget"].groups
    assert [rule["labels"]["window"] for rule in alerts(groups)] == ["3d"]
    groups = Example({"objectives": {"availability": {"target": 90}}}).groups
    assert [rule["labels"]["window"] for rule in alerts(groups)] == ["6h", "1d", "3d"]


# Objectives


def test_recording_rules_of_an_objective() -> None:
    groups = Example({"objectives": {"availability": {"target": 99.9}}}).groups
    of = '{namespace="search-prod",model="ranker"}'
    every = f"sum by (namespace, model) (rate(inference_requests_total{of}[5m]))"
    assert exprs(groups, "model:requests:rate5m") == [every]
    errors = every.replace('"ranker"', '"ranker",code=~"5..|429"')
    assert exprs(groups, "model:request_errors:rate5m") == [f"{errors} or 0 * model:requests:rate5m{of}"]
    assert exprs(groups, "model:error_ratio:rate5m") == [
        f"model:request_errors:rate5m{of} / (model:requests:rate5m{of} > 0)"
    ]
    bad, all_ = (f"sum_over_time(model:{name}:rate5m{of}[30d])" for name in ("request_errors", "requests"))
    assert exprs(groups, "model:error_ratio:rate30d") == [f"{bad} / ({all_} > 0)"]
    recorded = [rule["record"] for rule in rules(groups) if "record" in rule]
    windows = [record.rpartition("rate")[2] for record in recorded if record.startswith("model:error_ratio:")]
    assert sorted(windows) == sorted(["5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d"])


def test_burn_rate_alerts_page_for_hours_and_file_tickets_for_days() -> None:
    groups = Example({"objectives": {"availability": {"target": 99.9}}}).groups
    of = '{namespace="search-prod",model="ranker"}'
    found = alerts(groups)
    assert [(rule["labels"]["window"], rule["labels"]["severity"]) for rule in found] == [
        ("1h", "critical"), ("6h", "critical"), ("1d", "warning"), ("3d", "warning"),
    ]  # fmt: skip
    assert found[0]["expr"] == (
        f"model:error_ratio:rate1h{of} > 14.4 * 0.001\n"
        f"and model:error_ratio:rate5m{of} > 14.4 * 0.001\n"
        f"and model:requests:rate1h{of} > 0.05"
    )
    assert found[3]["expr"] == (
        f"model:error_ratio:rate3d{of} > 1 * 0.001\n"
        f"and model:error_ratio:rate6h{of} > 1 * 0.001\n"
        f"and avg_over_time(model:requests:rate5m{of}[3d]) > 0.05"
    )


@each_example
def test_what_a_rule_reads_was_recorded_before_it_in_its_group(example: Example) -> None:
    for group in example.groups:
        known: set[str] = set()
        for rule in group["rules"]:
            read = {
                selector.name for selector in selectors(rule["expr"]) if selector.name.startswith("model:")
            }
            assert read <= known, rule
            known |= {rule["record"]} if "record" in rule else set()


RECORDING = {
    name: one for name, one in EXAMPLES.items() if any("record" in rule for rule in rules(one.groups))
}
each_that_records = pytest.mark.parametrize("example", RECORDING.values(), ids=RECORDING)


@each_that_records
def test_no_counter_is_read_over_days(example: Example) -> None:
    for rule in rules(example.groups):
        if "record" in rule:
            for metric, window in re.findall(r"(\w[\w:]*)\{[^}]*\}\[(\w+)\]", rule["expr"]):
                assert window in ("5m", "1h") or metric.startswith("model:"), rule


def test_objectives_of_two_alerts_on_one_model_record_different_series() -> None:
    recorded = []
    for kind, objective in OBJECTIVES.items():
        groups = Example({"objectives": {kind: objective}}).groups
        recorded.append({rule["record"] for rule in rules(groups) if "record" in rule})
    assert recorded[0]
    assert not recorded[0] & recorded[1]


@each_that_records
def test_recording_rules_take_no_series_of_other_models(example: Example) -> None:
    """Other Alerts record series of the same names: without a selector both would write both."""
    for rule in rules(example.groups):
        for selector in selectors(rule["expr"]) if "record" in rule else ():
            assert {"namespace", "model"} <= {matcher.name for matcher in selector.matchers.matchers}, rule


# Selectors and text


def test_one_model_is_matched_by_equality_and_several_by_expression() -> None:
    assert one_of("model", ["ranker"]) == 'model="ranker"'
    assert one_of("model", ["ranker", "encoder", "ranker"]) == 'model=~"encoder|ranker"'
    assert one_of("model", ["a.b", 'c"d']) == 'model=~"a\\\\.b|c\\"d"'
    assert quote('a\\b\n"') == '"a\\\\b\\n\\""'


def test_a_pattern_of_pods_takes_one_workload() -> None:
    pattern = re.compile(names.pods_of("ranker"))
    assert pattern.fullmatch("ranker-5d4f8c7b9-x2k4z")
    for other in (
        "ranker-lite-5d4f8c7b9-x2k4z",
        "ranker-standby-5d4f8c7b9-x2k4z",
        "my-ranker-5d4f8c7b9-x2k4z",
    ):
        assert not pattern.fullmatch(other)


@pytest.mark.parametrize("length", range(1, 64))
def test_a_pattern_of_pods_takes_names_that_kubernetes_has_cut(length: int) -> None:
    """`simpleNameGenerator` keeps 58 characters of ``<ReplicaSet>-`` and adds five."""
    job = "a" * length
    for replica_set in (f"{job}-5d4f8c7b9f", f"{job}-6b8d"):
        assert re.fullmatch(names.pods_of(job), f"{replica_set}-"[:58] + "x2k4z")


def test_users_text_stays_text(tmp_path: Path) -> None:
    summary = 'Slow: {{ $value }} }} {{{ "quoted" \\ ü\n{{range}}'
    example = Example({"thresholds": {"throughput": {"below": 1}}, "summary": summary})
    (rule,) = alerts(example.groups)
    assert rule["annotations"]["summary"] == text_of_user(summary)
    shown = _annotations(example.groups, tmp_path)
    assert summary.replace('"', '\\"').replace("\\ ü", "\\\\ ü").replace("\n", "\\n") in shown


def test_annotations_are_expanded(tmp_path: Path) -> None:
    shown = _annotations(EXAMPLES["everything"].groups, tmp_path)
    assert "<no value>" not in shown
    assert "error expanding" not in shown
    assert "{{" not in shown
    assert 'runbook_url="https://runbooks.shop.example/ranker"' in shown


def _annotations(groups: list[dict[str, Any]], folder: Path) -> str:
    """What promtool says that it got: every alert made to fire, its annotations expanded."""
    expr = "vector(0.5)"
    for label, value in (("namespace", "search-prod"), ("model", "ranker"), ("pod", "ranker-7c9d8-x2k4z")):
        expr = f'label_replace({expr}, "{label}", "{value}", "", "")'
    always = [{**rule, "expr": expr, "for": "0s"} for rule in alerts(groups)]
    (folder / "rules.yml").write_text(json.dumps({"groups": [{"name": "always", "rules": always}]}))
    expected = [
        {"eval_time": "1m", "alertname": name, "exp_alerts": []}
        for name in sorted({rule["alert"] for rule in always})
    ]
    test = {"interval": "1m", "input_series": [], "alert_rule_test": expected}
    (folder / "test.yml").write_text(json.dumps({"rule_files": ["rules.yml"], "tests": [test]}))
    shown = promtool.explain(folder / "test.yml")
    assert shown.count("Annotations:{") == len(always)
    return shown


# Labels


@each_example
def test_every_alert_can_be_routed_and_inhibited(example: Example) -> None:
    for rule in alerts(example.groups):
        labels = rule["labels"]
        assert {"severity", "slo", "window", "team", "environment"} <= labels.keys()
        assert all(isinstance(value, str) and value for value in labels.values())
        assert labels["team"] == "search"
        assert labels["environment"] == "prod"
        assert labels["severity"] in ("critical", "warning", "info")
        assert {"summary", "description"} <= rule["annotations"].keys()


@pytest.mark.parametrize(
    "name",
    ["alertname", "severity", "team", "environment", "slo", "window", "namespace", "model", "job", "pod"],
)
def test_the_specs_labels_cannot_replace_ours(name: str) -> None:
    """The type refuses them, and with it the schema."""
    with pytest.raises(msgspec.ValidationError, match=name):
        _ = Example({**EXAMPLES["everything"].spec, "labels": {name: "theirs"}}).groups


def test_labels_for_routing_are_on_every_alert() -> None:
    groups = Example({**EXAMPLES["everything"].spec, "labels": {"channel": "theirs"}}).groups
    for rule, same in zip(alerts(groups), alerts(everything()), strict=True):
        assert rule["labels"] == {**same["labels"], "channel": "theirs"}


def test_a_threshold_has_its_own_severity_or_that_of_the_alert() -> None:
    thresholds = {"throughput": {"below": 1}, "memory": {"above": 0.9, "severity": "critical"}}
    groups = Example(
        {"thresholds": thresholds, "severity": "info", "absence": {"severity": "warning"}}
    ).groups
    assert {rule["alert"]: rule["labels"]["severity"] for rule in alerts(groups)} == {
        names.THROUGHPUT_LOW: "info",
        names.MEMORY_HIGH: "critical",
        names.ABSENT: "warning",
    }


def test_a_summary_of_the_spec_replaces_ours() -> None:
    assert {rule["annotations"]["summary"] for rule in alerts(everything())} == {"Search ranks too slowly."}
    ours = Example({"objectives": OBJECTIVES, "thresholds": THRESHOLDS, "absence": {}})
    assert len({rule["annotations"]["summary"] for rule in alerts(ours.groups)}) == 16
    assert not [rule for rule in alerts(ours.groups) if "runbook_url" in rule["annotations"]]


# Thresholds and absence


def test_thresholds_say_what_the_spec_says() -> None:
    of = 'namespace="search-prod",model="ranker"'
    pods = "ranker-[a-z0-9]+-[a-z0-9]+"
    server = f'{{namespace="search-prod",pod=~"{pods}",container="server"'
    gpus = f'{{exported_namespace="search-prod",exported_pod=~"{pods}"}}'
    by = "sum by (namespace, model)"
    wanted = {
        names.LATENCY_HIGH: "histogram_quantile(0.99, sum by (namespace, model, le) "
        f"(rate(inference_request_duration_seconds_bucket{{{of}}}[5m]))) > 0.4\n"
        f"and {by} (rate(inference_request_duration_seconds_count{{{of}}}[5m])) > 0.05",
        names.QUEUE_TIME_HIGH: "histogram_quantile(0.95, sum by (namespace, model, le) "
        f"(rate(inference_queue_duration_seconds_bucket{{{of}}}[5m]))) > 0.05\n"
        f"and {by} (rate(inference_queue_duration_seconds_count{{{of}}}[5m])) > 0.05",
        names.ERROR_RATIO_HIGH: f'({by} (rate(inference_requests_total{{{of},code=~"5..|429"}}[5m])) '
        f"or 0 * {by} (rate(inference_requests_total{{{of}}}[5m])))\n"
        f"/ ({by} (rate(inference_requests_total{{{of}}}[5m])) > 0.05) > 0.05",
        names.THROUGHPUT_LOW: f"({by} (rate(inference_requests_total{{{of}}}[5m])) "
        f"or 0 * {by} (model_ready{{{of}}})) < 0.5",
        names.MEMORY_HIGH: "max by (namespace, pod) "
        f"(avg_over_time(container_memory_working_set_bytes{server}}}[5m]))\n/ max by (namespace, pod) "
        f'(kube_pod_container_resource_limits{server},resource="memory"}}) > 0.9',
        names.GPU_UTILIZATION_HIGH: f"avg(avg_over_time((DCGM_FI_DEV_GPU_UTIL{gpus} <= 100)[5m:30s])) "
        "/ 100 > 0.95",
        names.GPU_MEMORY_HIGH: f"max(avg_over_time((DCGM_FI_DEV_FB_USED{gpus} / (DCGM_FI_DEV_FB_USED{gpus} "
        f"+ DCGM_FI_DEV_FB_FREE{gpus} + DCGM_FI_DEV_FB_RESERVED{gpus} < 1e9))[5m:30s])) > 0.9",
    }
    found = Example({"thresholds": THRESHOLDS}).groups
    assert {rule["alert"]: rule["expr"] for rule in alerts(found)} == wanted
    assert {rule["for"] for rule in alerts(found)} == {"10m"}
    assert {rule["keep_firing_for"] for rule in alerts(found)} == {"5m"}


def test_times_of_the_spec_are_times_of_prometheus() -> None:
    found = {rule["alert"]: rule for rule in alerts(EXAMPLES["odd times"].groups)}
    assert "[90s]" in found[names.LATENCY_HIGH]["expr"]
    assert "for" not in found[names.LATENCY_HIGH]
    assert found[names.THROUGHPUT_LOW]["for"] == "2h"
    assert "[3h:15s]" in found[names.GPU_UTILIZATION_HIGH]["expr"]


@pytest.mark.parametrize(
    ("for_", "scrape", "emitted"),
    [
        ("10m", "30s", "10m"),
        ("1m", "30s", "1m"),
        ("30s", "30s", "60s"),
        ("1s", "1500ms", "3s"),
        ("1ms", "333ms", "666ms"),
    ],
)
def test_a_late_scrape_is_no_absence(for_: str, scrape: str, emitted: str) -> None:
    example = Example({"absence": {"for": for_}}, monitoring=Monitoring(scrape_interval=scrape))
    (rule,) = alerts(example.groups)
    assert rule["for"] == rule["labels"]["window"] == emitted


def test_absence_names_what_it_watches() -> None:
    """``absent`` keeps no label of its series."""
    groups = EXAMPLES["several models"].groups
    assert {
        (rule["labels"]["namespace"], rule["labels"]["model"], rule["labels"]["job"])
        for rule in rules(groups, names.ABSENT)
    } == {(one.namespace, one.model, one.job) for one in EXAMPLES["several models"].watched}
    assert exprs(Example({"absence": {}}).groups, names.ABSENT) == [
        'absent(up{namespace="search-prod",job="ranker"} == 1)'
    ]


def test_models_without_gpus_have_no_rules_of_gpus() -> None:
    thresholds = {"gpuUtilization": {"above": 0.5}, "gpuMemory": {"above": 0.5}}
    assert Example({"thresholds": thresholds}, (LITE,)).groups == []
    found = alerts(Example({"thresholds": thresholds}, (RANKER, LITE)).groups)
    assert {rule["labels"]["model"] for rule in found} == {"ranker"}


def test_the_exporters_labels_are_those_of_the_environment() -> None:
    for rule in alerts(EXAMPLES["exporter with labels of its own"].groups):
        assert 'namespace="search-prod",pod=~"ranker-' in rule["expr"]
        assert "exported" not in rule["expr"]
    for rule in rules(everything(), names.GPU_MEMORY_HIGH):
        assert 'exported_namespace="search-prod",exported_pod=~"ranker-' in rule["expr"]


# The whole


@each_example
def test_prometheus_takes_the_rules(example: Example, tmp_path: Path) -> None:
    assert example.groups
    promtool.check_rules(example.groups, tmp_path)


@each_example
def test_expressions_read_known_metrics_only(example: Example) -> None:
    recorded = frozenset(rule["record"] for rule in rules(example.groups) if "record" in rule)
    for rule in rules(example.groups):
        assert not foreign(rule["expr"], recorded)


@each_example
def test_order_changes_nothing(example: Example) -> None:
    wanted = example.groups
    watched = list(example.watched)
    random.Random(1).shuffle(watched)
    spec = {**example.spec, "labels": dict(reversed(example.spec.get("labels", {}).items()))}
    assert json.dumps(Example(spec, tuple(watched), example.monitoring).groups) == json.dumps(wanted)


def test_nothing_watched_gives_nothing() -> None:
    assert rule_groups(alert(objectives=OBJECTIVES, absence={}), [], "prod", Monitoring()) == []
    assert Example({}).groups == []


_ratio = st.floats(0.001, 0.999)
_duration = st.sampled_from(["1m", "90s", "5m", "2h", "1d", "1500ms"])
_time = st.fixed_dictionaries(
    {"above": _duration}, optional={"quantile": _ratio, "window": _duration, "for": _duration}
)
_share = st.fixed_dictionaries({"above": _ratio}, optional={"window": _duration, "for": _duration})
_targets = st.floats(50, 99.9999)
_specs = st.fixed_dictionaries(
    {},
    optional={
        "period": st.sampled_from(["28d", "30d"]),
        "minRate": st.floats(0, 1e6),
        "summary": st.text(st.characters(exclude_categories=["Cc", "Cs"]), max_size=20),
        "objectives": st.fixed_dictionaries(
            {},
            optional={
                "availability": st.fixed_dictionaries({"target": _targets}),
                "latency": st.fixed_dictionaries({"target": _targets, "threshold": _duration}),
            },
        ),
        "thresholds": st.fixed_dictionaries(
            {},
            optional={
                "latency": _time,
                "queueTime": _time,
                **dict.fromkeys(("errorRatio", "memory", "gpuUtilization", "gpuMemory"), _share),
                "throughput": st.fixed_dictionaries({"below": st.floats(1e-9, 1e9)}),
            },
        ),
        "absence": st.fixed_dictionaries({"for": _duration}),
    },
)
_names = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?", fullmatch=True)
_watched = st.lists(st.builds(Watched, _names, _names, _names, st.integers(0, 8)), max_size=3, unique=True)


@given(_specs, _watched)
def test_any_alert_gives_expressions_that_parse(spec: dict[str, Any], watched: list[Watched]) -> None:
    for rule in rules(Example(spec, tuple(watched)).groups):
        assert list(selectors(rule["expr"]))
