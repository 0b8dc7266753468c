"""Whether a release finds the GPUs for the pods that it runs beside the old ones.

Argo Rollouts 1.9.1 (``CalculateReplicaCountsForTrafficRoutedCanary``) keeps all stable pods until the end of
a canary, and the canary has as many by then; a preview is promoted with as many, too. A Deployment surges by
one pod where it has one only, else it yields one first (``serving.py``).
"""

from __future__ import annotations

from collections.abc import Iterator

from modelway.diagnostics import Diagnostic, diagnostic
from modelway.lower.forms import choose
from modelway.resolve import Deployed, Place, deployed


def releases(place: Place) -> Iterator[Diagnostic]:
    """Each deployment whose new pods would not fit beside all that runs with its least replicas."""
    inventory = place.environment.spec.spec.gpus
    running: dict[str, int] = {}
    for one in deployed(place):
        product, count = _gpus(one, place)
        running[product] = running.get(product, 0) + count * one.model.spec.spec.serving.scaling.min_replicas
    for one in deployed(place):
        product, count = _gpus(one, place)
        pods = _more_pods(one, place)
        if not count or product not in inventory or running[product] > inventory[product].count:
            continue  # no GPU, or an error that is told already
        needed, total = running[product] + count * pods, inventory[product].count
        if needed > total:
            text = (
                f'a release of "{one.model.key}" in "{place.name}" runs {pods} more pods, '
                f'which makes {needed} of {total} "{product}"'
            )
            hint = "the new pods would stay Pending until the release aborts: add GPUs, or lower minReplicas"
            span = one.model.span("spec", "serving", "resource")
            yield diagnostic("MW414", span, text, hint)


def _gpus(one: Deployed, place: Place) -> tuple[str, int]:
    gpu = place.resources[one.model.spec.spec.serving.resource].spec.spec.gpu
    return (gpu.product, gpu.count) if gpu else ("", 0)


def _more_pods(one: Deployed, place: Place) -> int:
    """At the peak of a release, beside the least replicas of the old version."""
    least = one.model.spec.spec.serving.scaling.min_replicas
    if choose(one, place.environment).strategy == "rolling":
        return 1 if least == 1 else 0
    return least
