"""MW414: the pods of a release that the inventory has no GPUs for, for each way of releasing."""

from __future__ import annotations

from typing import Any

import pytest

from modelway.diagnostics import Severity
from tests.lower.test_traps_of_specs import ALL, _compiled, environment, model, resource

Json = dict[str, Any]
STRATEGIES: dict[str, Json] = {
    "canary": {"strategy": "canary", "steps": [{"weight": 25}, {"weight": 50}]},
    "blueGreen": {"strategy": "blueGreen"},
    "rolling": {"strategy": "rolling"},
}


def warned(strategy: str, pods: int, gpus: int, *add_ons: str, others: int = 0, each: int = 1) -> list[str]:
    """The models of which a release does not fit: ``ranker`` of so many pods, and ``others`` that only run."""
    place = environment(*add_ons, gpus={"l4": {"nodeLabel": "L4", "count": gpus, "perNode": gpus}})
    specs = [
        place,
        resource(gpu={"product": "l4", "count": each}),
        model(serving={"scaling": {"minReplicas": pods}}, rollout=STRATEGIES[strategy]),
    ]
    if others:
        specs.append(model("other", serving={"scaling": {"minReplicas": others}}))
    compilation, _ = _compiled(tuple(specs))
    assert not [one for one in compilation.diagnostics if one.severity is Severity.ERROR]
    return [one.message for one in compilation.diagnostics if one.code == "MW414"]


@pytest.mark.parametrize("pods", [1, 2, 4, 8])
@pytest.mark.parametrize("strategy", ["canary", "blueGreen"])
def test_a_weighed_release_needs_twice_its_pods(strategy: str, pods: int) -> None:
    assert not warned(strategy, pods, 2 * pods, *ALL)
    (text,) = warned(strategy, pods, 2 * pods - 1, *ALL)
    assert f'runs {pods} more pods, which makes {2 * pods} of {2 * pods - 1} "l4"' in text


@pytest.mark.parametrize(("pods", "gpus", "fits"), [(1, 1, False), (1, 2, True), (2, 2, True), (8, 8, True)])
def test_a_rolling_update_surges_only_where_it_has_one_pod(pods: int, gpus: int, *, fits: bool) -> None:
    assert (warned("rolling", pods, gpus, *ALL) == []) == fits


def test_the_form_that_the_environment_allows_counts() -> None:
    """Without Rollouts the canary is a Deployment, which yields before it surges."""
    assert warned("canary", 4, 4, *ALL)
    assert not warned("canary", 4, 4, "gatewayAPI", "prometheusOperator")


def test_what_else_runs_counts() -> None:
    assert not warned("canary", 2, 8, *ALL, others=4)
    assert warned("canary", 2, 7, *ALL, others=4)
    assert warned("canary", 2, 7, *ALL, each=2), "four pods of two GPUs each"
