"""What the tree that stands says of the next: no compile lowers a count of pods that changes hands.

Git's count and a scaler's are one field of the cluster. A line that falls in the commit in which the scaler
comes takes pods away before the scaler has looked at the load. So under a scaler the line is never lowered;
the scaler lowers the count itself. Where a scaler goes, nobody knows how many pods run: that is said.

The same specs and the same tree give the same bytes, and a second compile changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from modelway.diagnostics import Diagnostic, diagnostic
from modelway.lower.forms import choose
from modelway.resolve import Deployed, Place, deployed

Standing = Callable[[str], bytes | None]
"""A file of the generated folder as it stands, by its path in there; None where there is none."""

_REPLICAS = re.compile(rb"^  replicas: ([0-9]{1,6})$", re.MULTILINE)
_MOST = re.compile(rb"^  (?:maxReplicaCount|maxReplicas): ([0-9]{1,6})$", re.MULTILINE)
_SCALERS = ("scaledobject", "horizontalpodautoscaler")


def nothing_stands(_: str) -> bytes | None:
    """For a first compile."""
    return None


def replicas(one: Deployed, place: Place, standing: Standing) -> int:
    """The count that Git states: the least, or under a scaler what it stated before where that is more."""
    scaling = one.model.spec.spec.serving.scaling
    form = choose(one, place.environment)
    if not form.scaler or scaling.max_replicas is None:
        return scaling.min_replicas
    kind = "deployment" if form.strategy == "rolling" else "rollout"
    stated = _number(_REPLICAS, standing(_path(one, place, kind)))
    return min(max(scaling.min_replicas, stated), scaling.max_replicas)


def ownership(place: Place, standing: Standing) -> Iterator[Diagnostic]:
    """Where a scaler comes or goes in this compile: what becomes of the count."""
    if place.environment.spec.spec.cluster is None:
        return
    for one in deployed(place):
        least, count = one.model.spec.spec.serving.scaling.min_replicas, replicas(one, place, standing)
        if choose(one, place.environment).scaler:
            if count > least and not _most_before(one, place, standing):
                span = one.model.span("spec", "serving", "scaling", "minReplicas")
                text = f'"{one.model.key}" keeps {count} replicas in "{place.name}" while its scaler comes'
                hint = (
                    f"first add maxReplicas beside minReplicas: {count}; once that is synced, write {least}"
                )
                yield diagnostic("MW413", span, text, hint)
        elif (most := _most_before(one, place, standing)) > least:
            span = one.model.key_span("spec", "serving", "scaling")
            text = (
                f'"{one.model.key}" may run {most} pods in "{place.name}"; its scaler goes, and {least} stay'
            )
            hint = f"write minReplicas: {most}, and lower it once that is synced"
            yield diagnostic("MW413", span, text, hint)


def _most_before(one: Deployed, place: Place, standing: Standing) -> int:
    """How many pods the scaler of the tree that stands allows; 0 where it has none."""
    return max(_number(_MOST, standing(_path(one, place, kind))) for kind in _SCALERS)


def _number(pattern: re.Pattern[bytes], file: bytes | None) -> int:
    match = pattern.search(file or b"")
    return int(match[1]) if match else 0


def _path(one: Deployed, place: Place, kind: str) -> str:
    model = one.model.spec.metadata
    return f"{place.name}/{model.team}/{model.name}/{kind}-{one.name}.yaml"
