"""Traps that a spec walks into: each is refused for its reason, or what comes out is right all the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from modelway.diagnostics import Severity
from modelway.load import Pointer, load
from modelway.pipeline import Compilation, compile_specs
from modelway.sources import SourceFile
from modelway.spec.common import amount
from tests.lower import test_traps as release
from tests.lower import test_traps_monitoring as monitoring
from tests.lower import test_traps_objects as objects
from tests.lower import test_traps_security as security
from tests.lower.clusters import Cluster, clusters_of, quantity
from tests.support.checking import every
from tests.support.spec_text import Text, dump, shown

DIGEST = "sha256:" + "1" * 64
ALL = ("rollouts", "gatewayAPI", "prometheusOperator")
Check = Callable[[Cluster], None]
Specs = tuple[dict[str, Any], ...]


def _spec(kind: str, metadata: dict[str, Any], spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "modelway.dev/v1alpha1", "kind": kind, "metadata": metadata, "spec": spec}


def environment(*add_ons: str, name: str = "prod", kubernetes: str = "1.37", **spec: Any) -> dict[str, Any]:
    cluster = {"kubernetes": kubernetes, "addOns": dict.fromkeys(add_ons, True)}
    images = {"server": f"registry.example/runtime@{DIGEST}"}
    if "gatewayAPI" in add_ons:
        spec["gateway"] = {"name": "edge", "namespace": "edge", "domain": "models.example"}
    return _spec("Environment", {"name": name}, {"cluster": cluster, "images": images, **spec})


def resource(name: str = "small", **spec: Any) -> dict[str, Any]:
    return _spec("Resource", {"name": name}, {"cpu": "2", "memory": "4Gi", **spec})


def model(name: str = "ranker", team: str = "search", **spec: Any) -> dict[str, Any]:
    serving = {"resource": "small", **spec.pop("serving", {})}
    artifact = {"uri": "s3://models/a.onnx", "format": "onnx", "digest": DIGEST, **spec.pop("artifact", {})}
    value = {"version": "1.0.0", "artifact": artifact, "serving": serving, **spec}
    return _spec("Model", {"name": name, "team": team}, value)


def alert(**spec: Any) -> dict[str, Any]:
    return _spec("Alert", {"name": "watch", "team": "search"}, {"target": {"model": "ranker"}, **spec})


def _compiled(specs: Specs) -> tuple[Compilation, list[SourceFile]]:
    text = "---\n".join(dump(Text("specs.yaml", one).value) for one in specs)
    sources = [SourceFile("specs.yaml", text.encode())]
    return compile_specs(sources), sources


@dataclass(frozen=True)
class Refusal:
    """The code of an error, and the value that it points at, in the spec of that number."""

    code: str
    document: int
    pointer: Pointer


# What compiles, and what must hold of it.
COMPILES: dict[str, tuple[Specs, tuple[Check, ...]]] = {
    "a target that has a shorter form": (
        (
            environment("metricsAdapter"),
            resource(),
            model(serving={"scaling": {"maxReplicas": 3, "target": 2000}}),
        ),
        (objects.test_quantities_are_what_the_server_gives_back,),
    ),
    "amounts that have shorter forms": (
        (
            environment(scratch="1024Mi"),
            resource(cpu="1.5", memory="2048Mi"),
            model(artifact={"size": "1000M"}),
        ),
        (objects.test_quantities_are_what_the_server_gives_back,),
    ),
    "weights that are hardly there": (
        (environment(), resource(), model(artifact={"size": "1Ki"})),
        (objects.test_quantities_are_what_the_server_gives_back,),
    ),
    "a standby without the protocol that its primary speaks": (
        (
            environment(),
            resource(),
            model(serving={"standby": {"model": "lite"}}),
            model("lite", serving={"protocols": {"rest": False}}),
        ),
        (objects.test_a_standby_is_where_its_primary_looks_for_it,),
    ),
    "a primary with REST off and a standby": (
        (
            environment(*ALL),
            resource(),
            model(serving={"protocols": {"rest": False}, "standby": {"model": "lite"}}),
            model("lite"),
        ),
        (
            objects.test_a_standby_is_where_its_primary_looks_for_it,
            security.test_the_policies_let_through_what_is_meant_and_nothing_else,
        ),
    ),
    "one standby of two": (
        (
            environment(*ALL, monitoring={"retention": "30d"}),
            resource(),
            model(serving={"standby": {"model": "lite"}}),
            model("tagger", serving={"standby": {"model": "lite"}}),
            model("lite"),
            alert(target={"model": "lite"}, objectives={"latency": {"target": 99, "threshold": "33ms"}}),
        ),
        (
            objects.test_a_standby_is_where_its_primary_looks_for_it,
            objects.test_selectors_match_the_pods_that_are_meant_and_no_others,
            objects.test_no_two_objects_are_one,
            security.test_the_policies_let_through_what_is_meant_and_nothing_else,
            monitoring.test_histograms_hold_every_threshold_and_a_bound_above,
        ),
    ),
    "steps that do not pause": (
        (
            environment(*ALL),
            resource(),
            model(
                rollout={
                    "strategy": "canary",
                    "steps": [{"weight": 5, "pause": "0s"}, {"weight": 99, "pause": "1500ms"}],
                    "gates": {"latency": {"max": "15s"}},
                }
            ),
        ),
        (
            release.test_weights_rise_and_pauses_end,
            monitoring.test_histograms_hold_every_threshold_and_a_bound_above,
        ),
    ),
    "the longest name that fits": (
        (environment(*ALL), resource(), model("m" * 56)),
        (
            objects.test_names_and_labels_are_what_kubernetes_takes,
            release.test_every_route_has_a_hostname_of_its_own,
        ),
    ),
    "two models whose roles meet": (
        (
            environment(*ALL),
            resource(),
            model(rollout={"strategy": "blueGreen"}),
            model("ranker-canary", rollout={"strategy": "blueGreen"}),
            model("ranker-stable"),
        ),
        (
            objects.test_no_two_objects_are_one,
            objects.test_selectors_match_the_pods_that_are_meant_and_no_others,
            release.test_every_route_has_a_hostname_of_its_own,
        ),
    ),
}

# What is refused, for what, and where.
REFUSED: dict[str, tuple[Specs, Refusal]] = {
    "a model named as the policy that denies by default": (
        (environment(), resource(), model("default-deny")),
        Refusal("MW407", 2, ("metadata", "name")),
    ),
    "a resource named as those of the system": (
        (environment(), resource("system-small", priority=5), model(serving={"resource": "system-small"})),
        Refusal("MW205", 1, ("metadata", "name")),
    ),
    "a team and an environment that make a namespace of Kubernetes": (
        (environment(name="system"), resource(), model(team="kube")),
        Refusal("MW205", 2, ("metadata", "team")),
    ),
    "a start-up longer than a number can say": (
        (environment(), resource(), model(serving={"timeouts": {"startup": "999999999d"}})),
        Refusal("MW212", 2, ("spec", "serving", "timeouts", "startup")),
    ),
    "a pause longer than Go can say": (
        (
            environment(*ALL),
            resource(),
            model(rollout={"strategy": "canary", "steps": [{"weight": 5, "pause": "999999999d"}]}),
        ),
        Refusal("MW212", 2, ("spec", "rollout", "steps", 0, "pause")),
    ),
    "an address range that is none": (
        (environment(artifactStore={"cidrs": ["999.1.1.1/33"]}), resource(), model()),
        Refusal("MW108", 0, ("spec", "artifactStore", "cidrs", 0)),
    ),
    "an address range of letters": (
        (environment(artifactStore={"cidrs": ["dead/200"]}), resource(), model()),
        Refusal("MW108", 0, ("spec", "artifactStore", "cidrs", 0)),
    ),
    "a digest of an image that is none": (
        (
            environment("imageVolumes"),
            resource(),
            model(artifact={"uri": "oci://registry.example/m@sha256:zz"}),
        ),
        Refusal("MW209", 2, ("spec", "artifact", "uri")),
    ),
    "the longest names": (
        (
            environment(*ALL, name="e" * 20),
            resource("r" * 40),
            model("m" * 63, "t" * 42, serving={"resource": "r" * 40}),
        ),
        Refusal("MW406", 2, ("metadata", "name")),
    ),
    "a model named as the gRPC route of another": (
        (environment(*ALL), resource(), model(), model("ranker-grpc")),
        Refusal("MW205", 3, ("metadata", "name")),
    ),
    "a model named as the standby of another": (
        (
            environment(*ALL),
            resource(),
            model(serving={"standby": {"model": "lite"}}),
            model("lite"),
            model("ranker-standby"),
        ),
        Refusal("MW407", 3, ("metadata", "name")),
    ),
}


@pytest.mark.parametrize("name", COMPILES)
def test_a_trap_is_walked_around(name: str) -> None:
    specs, checks = COMPILES[name]
    compilation, sources = _compiled(specs)
    assert compilation.files, shown(compilation.diagnostics)
    for cluster in every(clusters_of("case", compilation, sources)):
        for check in every(checks):
            check(cluster)


@pytest.mark.parametrize("name", REFUSED)
def test_a_trap_is_refused_where_it_is(name: str) -> None:
    specs, refusal = REFUSED[name]
    compilation, (source,) = _compiled(specs)
    documents, _ = load(source)
    span = documents[refusal.document].span(refusal.pointer)
    errors = {(one.code, one.span) for one in compilation.diagnostics if one.severity is Severity.ERROR}
    assert errors == {(refusal.code, span)}, shown(compilation.diagnostics)


@pytest.mark.parametrize("size", ["1Ki", "10M", "64Mi", "600Mi", "1000M", "1.5Gi", "2Gi", "7.001Gi", "1Ti"])
def test_fetched_weights_have_room(size: str) -> None:
    """The volume holds 1.1 times the weights, and so does what the container may write."""
    compilation, sources = _compiled((environment(), resource(), model(artifact={"size": size})))
    (cluster,) = clusters_of("case", compilation, sources)
    (work,) = cluster.workloads
    (volume,) = (one for one in work.pod["volumes"] if one["name"] == "model")
    room = quantity(volume["emptyDir"]["sizeLimit"])
    assert room >= 1.1 * float(amount(size))
    assert room <= 1.1 * float(amount(size)) + 2**20
    release.test_weights_come_by_a_volume_or_a_fetch_that_checks_them(cluster)


def test_a_standby_on_a_laptop_has_the_bounds_that_its_alert_asks_for() -> None:
    """It is served by its primary's process, which has one list of bounds."""
    laptop = _spec(
        "Environment", {"name": "laptop"}, {"requireDigests": False, "monitoring": {"retention": "30d"}}
    )
    specs = (
        laptop,
        resource(),
        model(artifact={"uri": "file:a.onnx"}, serving={"standby": {"model": "lite"}}),
        model("lite", artifact={"uri": "file:b.onnx"}),
        alert(target={"model": "lite"}, objectives={"latency": {"target": 99, "threshold": "33ms"}}),
    )
    compilation, _ = _compiled(specs)
    files = {file.path: file.data.decode() for file in compilation.files}
    assert 'le="0.033"' in files["laptop/search/watch/rules-watch.yaml"]
    assert "0.033" in files["laptop/search/ranker/settings-ranker.json"]


def test_nothing_that_is_not_said_stands_in_the_lineage() -> None:
    compilation, sources = _compiled(
        (environment(), resource(), model(lineage={"trainingData": {"uri": "s3://a/b"}}))
    )
    (cluster,) = clusters_of("case", compilation, sources)
    (work,) = cluster.workloads
    assert (
        work.value["metadata"]["annotations"]["modelway.dev/lineage"] == '{"trainingData":{"uri":"s3://a/b"}}'
    )


def test_null_in_the_defaults_of_an_environment_is_nothing() -> None:
    """They are a merge patch, too: null takes away what is not there."""
    nothing = {"model": {"serving": {"standby": None, "scaling": {"maxReplicas": None}}}}
    with_, _ = _compiled((environment(defaults=nothing), resource(), model()))
    without, _ = _compiled((environment(), resource(), model()))
    assert without.files
    assert with_.files == without.files, shown(with_.diagnostics)
