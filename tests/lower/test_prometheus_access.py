"""Whoever reads from Prometheus is let in: tenant, token and TLS of the environment reach every reader.

A reader is found by the address of Prometheus in what is generated, so that a new one cannot be forgotten: it
stands in no row of ``READERS``, and the first test says so.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest
import yaml

from modelway.lower import names
from modelway.pipeline import compile_specs
from modelway.sources import SourceFile
from tests.lower.clusters import Cluster
from tests.lower.rollouts import ERROR, SUCCESSFUL
from tests.lower.test_detector import ALL, CANARY, alert, cluster_of, compiled, shop_of
from tests.lower.test_smoke import Analysis, analyse
from tests.lower.test_traps_of_specs import environment, model, resource
from tests.support import shop
from tests.support.kube_schemas import errors, need_crds
from tests.support.spec_text import Text, dump, shown

Json = dict[str, Any]
ADDRESS = "https://mimir.monitoring.svc:9443/prometheus"
ACCESS: Json = {
    "prometheus": ADDRESS,
    "tokenSecret": "mimir-token",
    "tls": {"secret": "mimir-tls"},
    "tenant": {"header": "X-Scope-OrgID", "value": "shop|search"},
}
SECRETS = {
    "mimir-token": {"token": "s3cr3t"},
    "mimir-tls": {"ca.crt": "CA", "tls.crt": "CRT", "tls.key": "KEY"},
}
SCALED = {"scaling": {"minReplicas": 1, "maxReplicas": 4}}
Sent = Mapping[str, str]
"""What a reader sends: the headers, and ``ca``, ``certificate`` and ``key`` where it has them."""


def analysis(cluster: Cluster, value: Json) -> Iterator[Sent]:
    """Argo Rollouts 1.9.1: arguments from Secrets of the namespace, then ``headers`` (``NewPrometheusAPI``)."""
    given = {
        one["name"]: SECRETS[one["valueFrom"]["secretKeyRef"]["name"]][
            one["valueFrom"]["secretKeyRef"]["key"]
        ]
        for one in value["spec"]["args"]
        if "valueFrom" in one
    }
    for metric in value["spec"]["metrics"]:
        asked = metric["provider"]["prometheus"]
        assert not asked.get("insecure")
        headers = {one["key"]: one["value"] for one in asked["headers"]}
        for name, secret in given.items():
            headers = {key: text.replace(f"{{{{args.{name}}}}}", secret) for key, text in headers.items()}
        yield headers


def scaler(cluster: Cluster, value: Json) -> Iterator[Sent]:
    """KEDA 2.20.2: ``customHeaders`` split at commas and equals signs, ``authModes``, and the parameters of the
    TriggerAuthentication from Secrets of the namespace (``authentication.Config``)."""
    for one in value["spec"]["triggers"]:
        metadata = one["metadata"]
        assert "unsafeSsl" not in metadata
        headers = dict(part.split("=") for part in metadata["customHeaders"].split(","))
        found = cluster.get(
            "TriggerAuthentication", value["metadata"]["namespace"], one["authenticationRef"]["name"]
        )
        assert found is not None
        taken = {
            each["parameter"]: SECRETS[each["name"]][each["key"]] for each in found["spec"]["secretTargetRef"]
        }
        modes = metadata["authModes"].split(",")
        if "bearer" in modes:
            headers["Authorization"] = f"Bearer {taken['bearerToken']}"
        if "tls" in modes:
            headers |= {"certificate": taken["cert"], "key": taken["key"]}
        if modes and "ca" in taken:
            headers["ca"] = taken["ca"]
        yield headers


def detector(cluster: Cluster, value: Json) -> Iterator[Sent]:
    """The detector: files of its settings, mounted from Secrets of its namespace."""
    assert cluster.detector is not None
    settings = json.loads(value["data"]["settings.json"])["prometheus"]
    (volume,) = (one for one in cluster.detector.pod["volumes"] if one["name"] == "secrets")
    files = {
        f"{names.SECRETS_FOLDER}/{item['path']}": SECRETS.get(one["secret"]["name"], {}).get(item["key"], "")
        for one in volume["projected"]["sources"]
        for item in one["secret"]["items"]
    }
    tls = settings["tls"]
    sent = {settings["tenant"]["header"]: settings["tenant"]["value"], "ca": files[tls["ca_file"]]}
    sent["Authorization"] = f"Bearer {files[settings['token_file']]}"
    if tls["certificate_file"]:
        sent |= {"certificate": files[tls["certificate_file"]], "key": files[tls["key_file"]]}
    yield sent


READERS: dict[str, Callable[[Cluster, Json], Iterator[Sent]]] = {
    "AnalysisTemplate": analysis,
    "AnalysisRun": analysis,
    "ScaledObject": scaler,
    "ConfigMap": detector,
}
HEADERS = {"X-Scope-OrgID": "shop|search", "Authorization": "Bearer s3cr3t"}


def place_of(**monitoring: Any) -> Cluster:
    changes = {"serving": SCALED}
    return cluster_of(
        environment(*ALL, "keda", monitoring={"retention": "90d", **ACCESS, **monitoring}, detector=DETECTOR),
        resource(), model(rollout=CANARY, **changes), model("encoder", rollout=CANARY, **changes), alert("a"),
    )  # fmt: skip


DETECTOR = {"gate": {"publicUrl": "https://detector.shop.example"}}


def readers(cluster: Cluster) -> list[Json]:
    """Everything that names the address."""
    return [value for value in cluster.objects.values() if ADDRESS in json.dumps(value)]


@pytest.fixture(scope="module")
def mimir() -> Cluster:
    return place_of()


def test_every_reader_is_known(mimir: Cluster) -> None:
    kinds = {value["kind"] for value in readers(mimir)}
    assert kinds == set(READERS)


def test_every_reader_sends_all_that_the_environment_demands(mimir: Cluster) -> None:
    for value in readers(mimir):
        for sent in READERS[value["kind"]](mimir, value):
            assert {key: sent[key] for key in HEADERS} == HEADERS, value["metadata"]["name"]
            if value["kind"] in ("ScaledObject", "ConfigMap"):
                assert sent["ca"] == "CA"


def test_a_certificate_is_shown_by_those_who_can() -> None:
    """Without gates: where they are it is an error."""
    tls = {"secret": "mimir-tls", "certificate": True}
    monitoring = {"retention": "90d", **ACCESS, "tls": tls}
    cluster = cluster_of(
        environment("keda", monitoring=monitoring, detector={}), resource(), model(serving=SCALED), alert("a")
    )
    asked = readers(cluster)
    assert {value["kind"] for value in asked} == {"ScaledObject", "ConfigMap"}
    for value in asked:
        (sent,) = READERS[value["kind"]](cluster, value)
        assert (sent["ca"], sent["certificate"], sent["key"]) == ("CA", "CRT", "KEY")


def test_no_secret_is_in_a_file_and_schemas_take_it_all(mimir: Cluster) -> None:
    need_crds()
    kinds = ("AnalysisTemplate", "AnalysisRun", "ScaledObject", "TriggerAuthentication")
    checked = mimir.of(*kinds)
    assert {value["kind"] for value in checked} == set(kinds)
    for value in checked:
        assert errors(value, "1.37") == [], value["metadata"]["name"]
    assert not [value for value in mimir.objects.values() if value["kind"] == "Secret"]


def test_without_access_nothing_is_sent() -> None:
    cluster = shop_of(alert("a"))
    for template in cluster.of("AnalysisTemplate"):
        for metric in template["spec"]["metrics"]:
            assert "headers" not in metric["provider"].get("prometheus", {})
    assert not cluster.of("TriggerAuthentication")
    assert not [
        run for run in cluster.of("AnalysisRun") if "prometheus" in run["spec"]["metrics"][0]["provider"]
    ]


@pytest.mark.parametrize(
    ("access", "codes"),
    [
        ({"tls": {"secret": "a"}}, ["MW415", "MW415"]),
        ({"tls": {"secret": "a"}, "tokenSecret": "b"}, ["MW415"]),
        ({"tls": {"secret": "a", "certificate": True}}, ["MW227"]),
        ({"tokenSecret": "b", "tenant": {"value": "shop"}}, []),
    ],
)
def test_what_a_reader_cannot_take_is_said(access: Json, codes: list[str]) -> None:
    """The gates of a canary, and a scaler of KEDA."""
    monitoring = {"retention": "90d", "prometheus": ADDRESS, **access}
    specs = [
        environment(*ALL, "keda", monitoring=monitoring),
        resource(),
        model(rollout=CANARY, serving=SCALED),
    ]
    data = "---\n".join(dump(Text("specs.yaml", one).value) for one in specs)
    compilation = compile_specs([SourceFile("specs.yaml", data.encode())])
    found = [one.code for one in compilation.diagnostics if one.code in ("MW227", "MW415")]
    assert found == codes, shown(compilation.diagnostics)
    assert bool(compilation.files) == ("MW227" not in codes)


@pytest.mark.parametrize("value", ["a,b", "a=b", "{{args.token}}", "a b", "a\nb", ""])
def test_a_tenant_that_a_reader_would_read_otherwise_is_refused(value: str) -> None:
    with pytest.raises(AssertionError, match=r"MW108|MW006"):
        compiled(environment("keda", monitoring={"tenant": {"value": value}}), resource(), model())


# Before the first release


def prometheus_run(cluster: Cluster) -> Json:
    (run,) = (
        one for one in cluster.of("AnalysisRun") if "prometheus" in one["spec"]["metrics"][0]["provider"]
    )
    return run


def test_a_missing_secret_shows_before_the_first_release(mimir: Cluster) -> None:
    """As the one of the detector's gate: Rollouts ends a release at once where an argument has no Secret."""
    run = prometheus_run(mimir)
    assert run["metadata"]["namespace"] == "search-prod"
    spec = as_web(run["spec"])
    assert analyse(spec, {}, {}, lambda _, __: [1.0]).phase == ERROR
    right = {"mimir-token": {"token": "s3cr3t"}}
    assert analyse(spec, {}, right, _asked("Bearer s3cr3t")) == Analysis(SUCCESSFUL, 1, 60)
    assert analyse(spec, {}, right, _asked("Bearer other")).phase == ERROR


def as_web(spec: Json) -> Json:
    """The same question as ``analyse`` puts it."""
    (metric,) = spec["metrics"]
    return {**spec, "metrics": [{**metric, "provider": {"web": metric["provider"]["prometheus"]}}]}


def _asked(token: str) -> Callable[[Json, int], Any]:
    def answer(asked: Json, _: int) -> list[float] | None:
        headers = {one["key"]: one["value"] for one in asked["headers"]}
        return [1.0] if headers["Authorization"] == token else None

    return answer


# The shop


def test_the_shops_own_prod_names_its_tenant_everywhere() -> None:
    tree = {path: value for path, value in shop.objects().items() if path.startswith("prod/")}
    (spec,) = yaml.safe_load_all((shop.ROOT / "specs/environments/prod.yaml").read_bytes())
    address, tenant = spec["spec"]["monitoring"]["prometheus"], spec["spec"]["monitoring"]["tenant"]
    asking = {path: text for path, value in tree.items() if address in (text := json.dumps(value))}
    assert len(asking) > 8
    for path, text in asking.items():
        assert tenant["header"] in text, path
        assert tenant["value"] in text, path
