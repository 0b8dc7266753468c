"""PromQL, parsed by promql-parser: what an expression reads."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import promql_parser

from modelway.lower import names

_CHILDREN = ("lhs", "rhs", "args", "expr", "param", "vector_selector")
METRICS = frozenset(value for value in vars(names).values() if isinstance(value, str))


def selectors(expr: str) -> Iterator[Any]:
    """Every vector selector of the expression, which must parse."""
    todo: list[Any] = [promql_parser.parse(expr)]
    while todo:
        node = todo.pop()
        if isinstance(node, promql_parser.VectorSelector):
            yield node
        if isinstance(node, list):
            todo += node
        else:
            todo += [child for name in _CHILDREN if (child := getattr(node, name, None)) is not None]


def foreign(expr: str, recorded: frozenset[str] = frozenset()) -> set[str]:
    """Metrics that neither ``names`` holds nor a rule records."""
    found = {selector.name for selector in selectors(expr)}
    return {
        metric
        for metric in found
        if metric not in recorded
        and metric not in METRICS
        and re.sub("_(bucket|count|sum)$", "", metric) not in METRICS
    }


def without_variables(expr: str) -> str:
    """Grafana's variables are not PromQL: an interval stands for them."""
    return expr.replace("$__rate_interval", "5m").replace("$__interval", "1m").replace("$__range", "1h")
