"""The table of metrics: what it says of an expression, and that docs/contract.md says the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.contract.metrics import (
    FOREIGN,
    FOREIGN_BY_SOURCE,
    LABEL_VALUES,
    METRICS,
    SERIES,
    base_name,
    metric_names,
    strange_labels,
    strangers,
    without_grafana,
)

PAGE = (Path(__file__).parents[2] / "docs" / "contract.md").read_text("utf-8")
EXPOSED = {
    "served": "always",
    "numbers": "outputs that are numbers",
    "classes": "outputs that are classes",
    "nvml": "where NVML is present",
    "detector": "by the detector",
}


@pytest.mark.parametrize(
    ("promql", "names"),
    [
        ("1", set()),
        ("up", {"up"}),
        ('-sum by (model) (up{job="ranker"})', {"up"}),
        ("rate(model_ready[5m] offset 1w)", {"model_ready"}),
        ("max_over_time((model_ready > 0)[1h:1m])", {"model_ready"}),
        ("topk(scalar(up), model_info)", {"up", "model_info"}),
        ("model_ready * on (model) group_left (digest) model_info", {"model_ready", "model_info"}),
        ('{__name__="up", job="x"}', {"up"}),
        ('{__name__="up" or __name__="model_info"}', {"up", "model_info"}),
        ("model:requests:rate5m > 0 or vector(0)", {"model:requests:rate5m"}),
        ('up{job="inference_batch_rows", text="sum(rate(model_info[5m]))"}', {"up"}),
        ('absent(up{rollouts_pod_template_hash="{{args.canary-hash}}"})', {"up"}),
        (
            "histogram_quantile(0.99, sum by (le) (rate(inference_queue_duration_seconds_bucket[5m])))",
            {"inference_queue_duration_seconds_bucket"},
        ),
    ],
)
def test_names_of_an_expression(promql: str, names: set[str]) -> None:
    assert metric_names(promql) == names


@pytest.mark.parametrize(
    "promql", ["", "sum(", "up{", "rate(up)", '{job="x"}', '{__name__=~"inference_.*"}', '{__name__!="up"}']
)
def test_expression_that_cannot_be_checked_is_an_error(promql: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        metric_names(promql)


def test_grafana_variables_are_replaced() -> None:
    promql = 'sum(rate(inference_requests_total{model="$model"}[$__rate_interval]))'
    assert metric_names(without_grafana(promql)) == {"inference_requests_total"}


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("inference_batch_rows_bucket", "inference_batch_rows"),
        ("inference_batch_rows_sum", "inference_batch_rows"),
        ("inference_batch_rows_count", "inference_batch_rows"),
        ("inference_batch_rows", "inference_batch_rows"),
        ("inference_queue_rows_sum", "inference_queue_rows_sum"),  # a gauge has no such series
        ("model:requests:rate5m_sum", "model:requests:rate5m_sum"),
    ],
)
def test_base_name(name: str, base: str) -> None:
    assert base_name(name) == base


@pytest.mark.parametrize(
    ("promql", "found"),
    [
        ("inference_requests_total / up", set()),
        ("inference_batch_rows_sum / inference_batch_rows_count", set()),
        (
            "rate(inference_batch_rows[5m])",
            {"inference_batch_rows"},
        ),  # a classic histogram has no such series
        ("inference_request_total", {"inference_request_total"}),
        ("kube_pod_info", {"kube_pod_info"}),  # exists, but is not on the list
        ("rate(keda_scaler_errors_total[5m])", {"keda_scaler_errors_total"}),  # did exist
        ("model:requests:rate5m + model:errors:rate5m", {"model:errors:rate5m"}),
    ],
)
def test_strangers(promql: str, found: set[str]) -> None:
    assert strangers(promql, recorded={"model:requests:rate5m"}) == found


@pytest.mark.parametrize(
    ("promql", "found"),
    [
        ('inference_requests_total{namespace="a", model="b", code=~"5..|429"}', set()),
        ('inference_requests_total{status="500"}', {("inference_requests_total", "status")}),
        ('inference_batch_rows_bucket{le="8.0"}', set()),
        ('inference_batch_rows_count{le="8.0"}', {("inference_batch_rows_count", "le")}),
        ('inference_queue_rows{version="1"}', {("inference_queue_rows", "version")}),
        ('model_ready{model="a" or team="b"}', {("model_ready", "team")}),
        ('kube_pod_labels{label_team="search"}', set()),
    ],
)
def test_strange_labels(promql: str, found: set[tuple[str, str]]) -> None:
    assert strange_labels(promql) == found


def test_lists_do_not_overlap() -> None:
    assert not SERIES & FOREIGN
    assert len(FOREIGN) == sum(len(names) for names in FOREIGN_BY_SOURCE.values())
    assert {name for name, _ in LABEL_VALUES} <= METRICS.keys()
    assert all(label in METRICS[name].labels for name, label in LABEL_VALUES)


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table below a heading of the page, without its two head lines."""
    section = PAGE.split(f"\n{heading}\n", 1)[1]
    lines = re.search(r"(^\|.*\n)+", section, re.MULTILINE)
    assert lines is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[0].splitlines()[2:]]


def test_page_has_the_table_of_metrics() -> None:
    page = [(name, kind, labels, exposed.split(";")[0]) for name, kind, labels, exposed in rows("## Metrics")]
    assert page == [
        (f"`{name}`", metric.type, ", ".join(f"`{label}`" for label in metric.labels), EXPOSED[metric.when])
        for name, metric in METRICS.items()
    ]


def test_page_has_the_foreign_metrics() -> None:
    assert rows("### Metrics of others") == [
        [source, ", ".join(f"`{name}`" for name in names)] for source, names in FOREIGN_BY_SOURCE.items()
    ]


def test_page_names_every_label_value() -> None:
    for values in LABEL_VALUES.values():
        assert [value for value in values if f"`{value}`" not in PAGE] == []
