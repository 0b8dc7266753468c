"""``modelway list``: what runs where, with how many GPUs and at what price."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple

from modelway.resolve import Place, deployed


class Row(NamedTuple):
    """A deployment in an environment. ``cost_per_hour`` is that of the least replicas, or None."""

    environment: str
    team: str
    model: str
    version: str
    deployed_as: str
    min_replicas: int
    max_replicas: int
    gpu: str
    gpus: int
    cost_per_hour: Decimal | None
    currency: str


def rows(place: Place) -> list[Row]:
    """The deployments of an environment; GPUs and cost are those of the least replicas."""
    return sorted(_row(place, one.name, one.model.spec) for one in deployed(place))


def _row(place: Place, name: str, model: Any) -> Row:
    scaling = model.spec.serving.scaling
    alone = place.environment.spec.spec.cluster is None  # a process on a laptop, which nothing scales
    least = 1 if alone else scaling.min_replicas
    most = 1 if alone else scaling.max_replicas or least
    size = place.resources[model.spec.serving.resource].spec.spec
    cost = Decimal(size.cost.per_hour) * least if size.cost else None
    return Row(
        environment=place.name,
        team=model.metadata.team,
        model=model.metadata.name,
        version=model.spec.version,
        deployed_as=name,
        min_replicas=least,
        max_replicas=most,
        gpu=size.gpu.product if size.gpu else "",
        gpus=size.gpu.count * least if size.gpu else 0,
        cost_per_hour=cost,
        currency=size.cost.currency if size.cost else "",
    )


def data(found: Sequence[Row]) -> dict[str, Any]:
    """Rows and sums as JSON data; a cost is a decimal string."""
    return {
        "models": [
            {
                "environment": row.environment,
                "team": row.team,
                "model": row.model,
                "version": row.version,
                "deployedAs": row.deployed_as,
                "minReplicas": row.min_replicas,
                "maxReplicas": row.max_replicas,
                "gpu": row.gpu or None,
                "gpus": row.gpus,
                "costPerHour": None if row.cost_per_hour is None else str(row.cost_per_hour),
                "currency": row.currency or None,
            }
            for row in found
        ],
        "totals": [
            {"environment": environment, "gpus": gpus, "costPerHour": str(cost), "currency": currency or None}
            for environment, currency, gpus, cost in totals(found)
        ],
    }


def totals(found: Iterable[Row]) -> list[tuple[str, str, int, Decimal]]:
    """(environment, currency, GPUs, cost an hour) of the least replicas."""
    sums: dict[tuple[str, str], tuple[int, Decimal]] = {}
    for row in found:
        gpus, cost = sums.get((row.environment, row.currency), (0, Decimal(0)))
        sums[row.environment, row.currency] = gpus + row.gpus, cost + (row.cost_per_hour or 0)
    return [(*key, gpus, cost) for key, (gpus, cost) in sorted(sums.items())]


def table(found: Sequence[Row]) -> str:
    """Aligned columns and a line of sums for each environment."""
    head = ("ENVIRONMENT", "MODEL", "VERSION", "DEPLOYED AS", "REPLICAS", "GPUS", "COST/H")
    lines = [
        (
            row.environment,
            f"{row.team}/{row.model}",
            row.version,
            row.deployed_as,
            f"{row.min_replicas}"
            if row.min_replicas == row.max_replicas
            else f"{row.min_replicas}-{row.max_replicas}",
            f"{row.gpus} {row.gpu}".strip() if row.gpus else "-",
            "-" if row.cost_per_hour is None else f"{row.cost_per_hour} {row.currency}",
        )
        for row in found
    ]
    widths = [max(len(line[column]) for line in (head, *lines)) for column in range(len(head))]
    text = "".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() + "\n"
        for line in (head, *lines)
    )
    sums = [
        f"{environment}: {gpus} GPUs, {cost} {currency} an hour".replace(" 0  an hour", "")
        for environment, currency, gpus, cost in totals(found)
        if gpus or cost
    ]
    return text + ("\nAt the least replicas: " + "; ".join(sums) + "\n" if sums else "")
