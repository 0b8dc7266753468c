"""The runtime keeps its side: it reads what the compiler writes and exposes what the rules name."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from docs import shop_weights
from modelway_runtime.settings import WrongSettings, parse
from tests.contract.metrics import METRICS, metric_names, without_grafana
from tests.contract.test_schemas import RIGHT, SERVER, WRONG, accepted, changed, example
from tests.support.serving import Server, serving_settings

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]

# Valid as far as a schema can say; what no single field shows is the reader's to find.
BEYOND_THE_SCHEMA = {
    "two listeners have the same port",
    "does not rise",
    "exceeds `max_rows`",
    "lacks the model",
}


@cache
def local() -> dict[str, Json]:
    """The settings that the compiler made for a laptop, by model."""
    files = sorted((ROOT / "generated/local").glob("*/*/settings-*.json"))
    return {value["model"]: value for value in (json.loads(file.read_text()) for file in files)}


def read(document: Json) -> bool:
    """Whether the runtime takes settings, but for what a schema cannot say."""
    try:
        parse(json.dumps(document).encode())
    except WrongSettings as error:
        return any(words in str(error) for words in BEYOND_THE_SCHEMA)
    return True


def test_the_runtime_reads_the_example() -> None:
    assert parse(json.dumps(example(SERVER)).encode()).model == "ranker"


@pytest.mark.parametrize(
    ("pointer", "value"),
    [(pointer, value) for name, pointer, value in (*RIGHT, *WRONG) if name == SERVER],
    ids=str,
)
def test_the_runtime_takes_what_the_schema_takes(pointer: tuple[str | int, ...], value: Any) -> None:
    document = changed(example(SERVER), pointer, value)
    assert read(document) == accepted(SERVER, document)


COMPILED = [path for path in (ROOT / "generated").rglob("*settings-*") if "_platform" not in path.parts]


@pytest.mark.parametrize("path", sorted(COMPILED), ids=lambda path: path.name)
def test_the_runtime_reads_all_that_is_compiled(path: Path) -> None:
    text = path.read_text()
    if path.suffix == ".yaml":
        text = yaml.safe_load(text)["data"]["settings.json"]
    assert parse(text.encode()).schema == 1


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    shop_weights.main(folder / "models")
    return folder


def at_home(settings: Json, weights: Path) -> Json:
    """The settings on free ports, with sources that do not depend on the working folder."""
    served = [
        {**model, "source": (weights / model["source"].removeprefix("file:")).as_uri()}
        for model in settings["served"]
    ]
    return {
        **settings,
        "served": served,
        "http": {"port": 0},
        "grpc": settings["grpc"] and {"port": 0},
        "metrics": {**settings["metrics"], "port": 0},
    }


def request_for(model: Json) -> Json:
    """One row of zeros (ones for whole numbers), as JSON."""
    inputs = []
    for name, tensor in model["inputs"].items():
        shape = [1, *(size if size > 0 else 4 for size in tensor["shape"][1:])]
        count = 1
        for size in shape:
            count *= size
        value = 1 if tensor["datatype"].startswith("INT") else 0.5
        inputs.append({"name": name, "datatype": tensor["datatype"], "shape": shape, "data": [value] * count})
    return {"inputs": inputs}


def exposed(server: Server) -> dict[str, tuple[str, set[str]]]:
    """Type and labels of each metric that has a sample, by the contract's name."""
    with urlopen(server.metrics) as page:
        text = page.read().decode()
    found: dict[str, tuple[str, set[str]]] = {}
    for family in text_string_to_metric_families(text):
        name = family.name + ("_total" if family.type == "counter" else "")
        for sample in family.samples:
            _, labels = found.setdefault(name, (family.type, set()))
            labels |= sample.labels.keys() - {"le"}
    return found


def exercised(server: Server, settings: Json) -> None:
    """Everything once that a metric counts."""
    for model in settings["served"]:
        path = f"/v2/models/{model['name']}/infer"
        answer = server.ask("POST", path, request_for(model))
        assert answer.status == 200, answer.body
        assert [output["name"] for output in answer.json["outputs"]] == list(model["outputs"])
        assert server.ask("POST", path, {"inputs": []}).status == 400
        too_large = {"content-length": str(2**40)}
        assert server.ask("POST", path, b"", too_large).status == 413


@pytest.fixture(scope="module")
def pages(weights: Path) -> dict[str, dict[str, tuple[str, set[str]]]]:
    """What the server of each local model exposes after one request of each kind."""
    found = {}
    for model, settings in local().items():
        with serving_settings(at_home(settings, weights)) as server:
            exercised(server, settings)
            found[model] = exposed(server)
    return found


def test_every_metric_has_the_contracts_type_and_labels(pages: dict[str, Any]) -> None:
    for model, page in pages.items():
        for name, (kind, labels) in page.items():
            if name.startswith(("python_", "process_")):
                continue
            assert name in METRICS, f"{model} exposes {name}, which the contract does not know"
            assert (kind, labels) == (METRICS[name].type, set(METRICS[name].labels)), name


def test_every_model_exposes_what_the_contract_promises(pages: dict[str, Any]) -> None:
    conditional = {"inference_standby_requests_total"}  # only where there is a standby; see below
    always = {name for name, metric in METRICS.items() if metric.when == "served"} - conditional
    for model, page in pages.items():
        assert always <= page.keys(), model
        assert "inference_output_value" in page, model


def test_what_rules_gates_scalers_and_dashboards_name_is_exposed(pages: dict[str, Any]) -> None:
    everything = set().union(*(page.keys() for page in pages.values()))
    everything |= {"inference_standby_requests_total"}  # test_the_standby_answers
    elsewhere = {name for name, metric in METRICS.items() if metric.when in ("nvml", "detector", "classes")}
    named = {
        re.sub(r"_(bucket|sum|count)$", "", name) if name not in METRICS else name
        for expression in expressions()
        for name in metric_names(without_grafana(expression))
    }
    ours = {name for name in named if name in METRICS}
    assert len(ours) >= 8
    assert ours - elsewhere <= everything


def expressions() -> Iterator[str]:
    """All PromQL in generated/, whatever object it stands in."""
    for path in (ROOT / "generated").rglob("*"):
        if path.suffix in (".yaml", ".json") and ".index" not in path.parts:
            text = path.read_text()
            if path.suffix == ".json":
                yield from _found(json.loads(text))
            elif any(
                kind in text for kind in ("PrometheusRule", "AnalysisTemplate", "ScaledObject", "dashboard")
            ):
                yield from _found(yaml.safe_load(text))


def _found(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if key in ("expr", "query") and isinstance(inner, str):
                yield re.sub(r"\{\{args\.[\w-]+\}\}", "x", inner)
            elif isinstance(inner, str) and key.endswith(".json"):
                yield from _found(json.loads(inner))
            else:
                yield from _found(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _found(inner)


def test_the_standby_answers_when_the_own_model_cannot(weights: Path) -> None:
    settings = at_home(local()["ranker"], weights)
    settings["served"][0]["source"] = "file:///nowhere/model.onnx"
    with serving_settings(settings) as server:
        answer = server.ask("POST", "/v2/models/ranker/infer", request_for(settings["served"][0]))
        assert answer.status == 200
        assert answer.headers["modelway-served-by"] == "ranker-lite"
        assert answer.json["parameters"] == {"served_by": "ranker-lite"}
        assert answer.json["model_name"] == "ranker"
        assert server.metric("inference_standby_requests_total", model="ranker", reason="not_loaded") == 1
        assert server.metric("inference_requests_total", model="ranker", code="200") == 1
        page = exposed(server)["inference_standby_requests_total"]
        assert page == ("counter", {"model", "reason"})


def test_buckets_are_those_of_the_settings(weights: Path) -> None:
    settings = at_home(local()["recommender"], weights)
    with serving_settings(settings) as server:
        page = urlopen(server.metrics).read().decode()
        for bound in settings["metrics"]["latency_buckets_s"]:
            assert f'inference_request_duration_seconds_bucket{{le="{float(bound)}",' in page
