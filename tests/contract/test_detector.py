"""The detector keeps its side: it reads what the compiler writes, and writes what the schema says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelway.lower import analysis
from modelway_runtime.detection import evidence, settings, verdict
from modelway_runtime.settings import WrongSettings
from tests.contract.test_schemas import DETECTOR, RIGHT, VERDICT, WRONG, accepted, changed, example, schema

ROOT = Path(__file__).parents[2]
Json = dict[str, Any]
Pointer = tuple[str | int, ...]


def test_the_compiler_asks_for_as_many_stable_pods_as_the_detector_needs() -> None:
    assert analysis.STABLE_PODS == evidence.FEWEST_PODS


def settings_read(document: Json) -> bool:
    try:
        settings.parse(json.dumps(document).encode())
    except WrongSettings:
        return False
    return True


def of(name: str, *tables: list[tuple[str, Pointer, Any]]) -> list[tuple[Pointer, Any]]:
    return [(pointer, value) for table in tables for one, pointer, value in table if one == name]


def test_the_detector_reads_the_example() -> None:
    document = example(DETECTOR)
    assert settings.parse(json.dumps(document).encode()).watched[0].model == "ranker"


@pytest.mark.parametrize(("pointer", "value"), of(DETECTOR, RIGHT, WRONG), ids=str)
def test_the_detector_takes_what_the_schema_takes(pointer: Pointer, value: Any) -> None:
    document = changed(example(DETECTOR), pointer, value)
    assert settings_read(document) == (accepted(DETECTOR, document) and not beyond(document))


def beyond(document: Json) -> bool:
    """What no schema can say of settings: a response that lacks its means."""
    return any(
        ("failover" in one["response"] and one["standby"] is None)
        or ("restart" in one["response"] and one["workload"] is None)
        for one in document["watched"]
    )


def compiled() -> list[Path]:
    folder = ROOT / "generated"
    return sorted(
        [*folder.rglob("configmap-detector-settings-*.yaml"), *folder.rglob("detector-settings.json")]
    )


@pytest.mark.parametrize("path", compiled(), ids=lambda path: path.parts[-3])
def test_the_detector_reads_all_that_is_compiled(path: Path) -> None:
    text = path.read_text("utf-8")
    if path.suffix == ".yaml":
        text = yaml.safe_load(text)["data"]["settings.json"]
    assert accepted(DETECTOR, json.loads(text))
    assert settings.parse(text.encode()).watched


def test_the_shop_has_detectors() -> None:
    assert {path.parts[-4 if path.suffix == ".yaml" else -3] for path in compiled()} >= {"prod", "staging"}


def test_a_verdict_comes_back_as_it_was_written() -> None:
    document = example(VERDICT)
    read = verdict.from_json(json.dumps(document).encode())
    assert json.loads(verdict.to_json(read)) == document
    assert verdict.from_json(verdict.to_json(read)) == read


@pytest.mark.parametrize(("pointer", "value"), of(VERDICT, RIGHT), ids=str)
def test_a_right_verdict_is_read_and_written(pointer: Pointer, value: Any) -> None:
    document = changed(example(VERDICT), pointer, value)
    read = verdict.from_json(json.dumps(document).encode())
    written = json.loads(verdict.to_json(read))
    assert accepted(VERDICT, written)
    assert verdict.from_json(verdict.to_json(read)) == read
    if pointer != ("judged_at",):  # one moment has several spellings
        assert written == document


# What is written holds what is read, so that only the shape needs to be checked when it comes back.
@pytest.mark.parametrize(
    "pointer",
    [("schema",), ("state",), ("rollout", "hash"), ("metrics", 0, "effect"), ("commit", "sha")],
    ids=str,
)
def test_a_verdict_of_another_shape_is_refused(pointer: Pointer) -> None:
    document = changed(example(VERDICT), pointer, ["?"])
    with pytest.raises(verdict.WrongVerdict):
        verdict.from_json(json.dumps(document).encode())


def test_words_are_those_of_the_schema() -> None:
    definitions = schema(VERDICT)["$defs"]
    assert list(verdict.OUTCOMES) == definitions["state"]["enum"]
    metric = definitions["metric"]["properties"]
    assert list(verdict.UNITS) == metric["metric"]["enum"]
    assert set(verdict.UNITS.values()) == set(metric["unit"]["enum"])
