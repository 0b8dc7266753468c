"""Alerts to try the lowering on, by what is particular about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import msgspec

from modelway.lower.alerts import Watched, rule_groups
from modelway.spec.alert import Alert
from modelway.spec.environment import Monitoring

RANKER = Watched("search-prod", "ranker", "ranker", 1)
LITE = Watched("search-prod", "ranker-lite", "ranker-standby", 0)

DEFAULT = Monitoring()

OBJECTIVES = {"availability": {"target": 99.9}, "latency": {"target": 99, "threshold": "250ms"}}
THRESHOLDS = {
    "latency": {"above": "400ms"},
    "queueTime": {"above": "50ms", "quantile": 0.95},
    "errorRatio": {"above": 0.05},
    "memory": {"above": 0.9},
    "gpuUtilization": {"above": 0.95},
    "gpuMemory": {"above": 0.9},
    "throughput": {"below": 0.5},
}


@dataclass(frozen=True)
class Example:
    spec: dict[str, Any]
    watched: tuple[Watched, ...] = (RANKER,)
    monitoring: Monitoring = DEFAULT
    looks: bool = True

    @property
    def groups(self) -> list[dict[str, Any]]:
        return rule_groups(alert(**self.spec), self.watched, "prod", self.monitoring, looks=self.looks)


def alert(**spec: Any) -> Alert:
    metadata = {"name": "ranker-slo", "team": "search"}
    return msgspec.convert({"metadata": metadata, "spec": {"target": {"model": "ranker"}, **spec}}, Alert)


def rules(groups: list[dict[str, Any]], name: str = "") -> list[dict[str, Any]]:
    """All rules, or the alerts of a name, or what records a series of that name."""
    found = [rule for group in groups for rule in group["rules"]]
    return [rule for rule in found if name in ("", rule.get("alert"), rule.get("record"))]


def alerts(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [rule for rule in rules(groups) if "alert" in rule]


EXAMPLES = {
    "everything": Example(
        {
            "objectives": OBJECTIVES,
            "thresholds": THRESHOLDS,
            "absence": {"for": "10m"},
            "patterns": {"slower": {"metric": "latency"}},
            "labels": {"channel": "search-oncall"},
            "runbook": "https://runbooks.shop.example/ranker",
            "summary": "Search ranks too slowly.",
        }
    ),
    "several models": Example(
        {"objectives": {"availability": {"target": 99.5}}, "thresholds": THRESHOLDS, "absence": {}},
        (
            RANKER,
            LITE,
            Watched("search-prod", "ranker-lite", "encoder-standby", 2),
            Watched("search-prod", "encoder", "encoder", 2),
        ),
    ),
    "two namespaces": Example(
        {"thresholds": THRESHOLDS, "absence": {}},
        (RANKER, Watched("recommendation-prod", "ranker", "ranker", 1)),
    ),
    "28 days": Example(
        {"period": "28d", "objectives": {"latency": {"target": 97.5, "threshold": "1s"}}, "minRate": 2}
    ),
    "large budget": Example({"objectives": {"availability": {"target": 50}}, "minRate": 0}),
    "no floor": Example(
        {
            "thresholds": {"errorRatio": {"above": 0.5}, "latency": {"above": "1s", "quantile": 0.2}},
            "minRate": 0,
        }
    ),
    "odd times": Example(
        {
            "thresholds": {
                "latency": {"above": "90s", "window": "90s", "for": "0s"},
                "throughput": {"below": 1e-7, "window": "1d", "for": "2h"},
                "memory": {"above": 0.25, "window": "1m", "for": "90s"},
                "gpuUtilization": {"above": 0.2, "window": "3h", "for": "1m", "severity": "info"},
            },
            "absence": {"for": "1s", "severity": "warning"},
        },
        monitoring=Monitoring(scrape_interval="15s"),
    ),
    "exporter with labels of its own": Example(
        {"thresholds": {"gpuUtilization": {"above": 0.5}, "gpuMemory": {"above": 0.5}}},
        monitoring=msgspec.convert(
            {"gpuExporter": {"namespaceLabel": "namespace", "podLabel": "pod"}, "scrapeInterval": "1h"},
            Monitoring,
        ),
    ),
    "long name": Example(
        {"thresholds": {"memory": {"above": 0.9}, "gpuMemory": {"above": 0.9}}, "absence": {}},
        (
            Watched("search-prod", "a" * 50, "a" * 50, 1),
            Watched("search-prod", "b" * 54, f"{'b' * 54}-standby", 1),
        ),
    ),
}
