"""Nothing in a spec is accepted and then ignored: every field changes a generated file, or what is listed.

A field is set to the example of its schema in a set of specs in which everything is switched on; it fails
by its name if no file and no row of ``modelway list`` changes for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs
import pytest

from modelway.diagnostics import Severity
from modelway.load import load
from modelway.pipeline import compile_specs, list_models
from modelway.sources import SourceFile
from modelway.spec.schema import schemas
from tests.lower.schema_fields import ENTRY, Field, Pointer, fields, places
from tests.support.spec_text import Text, files, shown, value_at

EVERYTHING = Path(__file__).with_name("everything.yaml")


class Instead(NamedTuple):
    """A value for a field that the schema has no example for, or whose example the reference cannot take."""

    value: Any
    why: str


_ENTRY = "an entry of a mapping or list, which has no example of its own"
INSTEAD: dict[str, Instead] = {
    "Model.metadata.name": Instead("renamed", "the example is the name of another spec of the reference"),
    "Model.metadata.team": Instead("others", "the example is the team of the reference"),
    "Model.metadata.labels.*": Instead("low", _ENTRY),
    "Model.metadata.annotations.*": Instead("somebody", _ENTRY),
    "Model.spec.targets.0": Instead("staging", _ENTRY),
    "Model.spec.lineage.hyperparameters.*": Instead("deep", _ENTRY),
    "Model.spec.lineage.evaluation.*": Instead(0.5, _ENTRY),
    "Model.spec.interface.inputs.*": Instead({"datatype": "INT8", "shape": [-1]}, _ENTRY),
    "Model.spec.interface.inputs.*.shape.0": Instead(11, _ENTRY),
    "Model.spec.interface.outputs.*": Instead({"datatype": "INT8", "shape": [-1]}, _ENTRY),
    "Model.spec.interface.outputs.*.shape.0": Instead(11, _ENTRY),
    "Model.spec.serving.batching.preferredRows.0": Instead(5, _ENTRY),
    "Model.spec.serving.warmUp.rows.0": Instead(5, _ENTRY),
    "Model.spec.rollout.strategy": Instead("blueGreen", "a canary, as in the example, needs steps beside it"),
    "Model.spec.rollout.steps.0": Instead({"weight": 2}, _ENTRY),
    "Model.spec.environments": Instead({"staging": {"version": "7.7.7"}}, "the example is an empty overlay"),
    "Alert.metadata.team": Instead("others", "the example is the team of the reference"),
    "Alert.metadata.labels.*": Instead("low", _ENTRY),
    "Alert.metadata.annotations.*": Instead("somebody", _ENTRY),
    "Alert.spec.targets.0": Instead("staging", _ENTRY),
    "Alert.spec.target.labels.*": Instead("critical", _ENTRY),
    "Alert.spec.labels.*": Instead("b", _ENTRY),
    "Alert.spec.patterns.*": Instead({"metric": "throughput"}, _ENTRY),
    "Alert.spec.environments": Instead(
        {"staging": {"summary": "Another."}}, "the example is an empty overlay"
    ),
    "Resource.metadata.name": Instead("renamed", "the example is the name of the reference's resource"),
    "Resource.metadata.labels.*": Instead("x", _ENTRY),
    "Resource.spec.targets.0": Instead("staging", _ENTRY),
    "Resource.spec.environments": Instead({"staging": {"memory": "9Gi"}}, "the example is an empty overlay"),
    "Environment.metadata.name": Instead("renamed", "the example is that of another kind"),
    "Environment.metadata.labels.*": Instead("y", _ENTRY),
    "Environment.spec.gpus.*": Instead({"nodeLabel": "X1", "count": 50, "perNode": 3}, _ENTRY),
    "Environment.spec.artifactStore.cidrs.0": Instead("10.7.0.0/16", _ENTRY),
}

# Further changes that make a change possible, as (spec, pointer, value).
Change = tuple[str, Pointer, Any]
WITH: dict[str, tuple[Change, ...]] = {
    # A label that an alert asks for, and the models that have it.
    "Alert.spec.target.labels": (("Model search/plain", ("metadata", "labels"), {"tier": "critical"}),),
    "Alert.spec.target.labels.*": (("Model search/plain", ("metadata", "labels"), {"tier": "critical"}),),
    # A certificate is refused where gates ask.
    "Environment.spec.monitoring.tls.certificate": (
        ("Environment prod", ("spec", "cluster", "addOns", "rollouts"), False),
    ),
    # The inventory of the example has another product.
    "Environment.spec.gpus": (("Resource gpu-small", ("spec", "gpu", "product"), "l4"),),
}

SILENT: dict[str, str] = {
    "apiVersion": "the version of the language: there is one",
    "kind": "it says which fields there are",
    "metadata": "a mapping whose fields are all tried",
    "spec": "a mapping whose fields are all tried",
    "Environment.spec.monitoring.retention": "a limit: see the test below",
    "Environment.spec.gpus.*.count": "a limit: see the test below",
    "Environment.spec.gpus.*.perNode": "a limit: see the test below",
    "Environment.spec.requireDigests": "a limit: see the test below",
}
"""Fields that change no file and no row, by name or by last step, with the reason."""


@cache
def reference() -> tuple[Text, ...]:
    documents, wrong = load(SourceFile("reference.yaml", EVERYTHING.read_bytes()))
    assert not wrong, shown(wrong)
    return tuple(Text("reference.yaml", one.value) for one in documents)


Outcome = tuple[tuple[tuple[str, bytes], ...], tuple[Any, ...]]


@cache
def _outcome_of(data: bytes) -> Outcome | str:
    sources = [SourceFile("reference.yaml", data)]
    compilation = compile_specs(sources)
    failed = [one for one in compilation.diagnostics if one.severity is Severity.ERROR]
    if failed:
        return shown(failed)
    rows = list_models(sources, []).rows
    return tuple((file.path, file.data) for file in compilation.files), tuple(rows)


def outcome(documents: tuple[Text, ...] | list[Text]) -> Outcome | str:
    """Files and rows, or the errors."""
    (source,) = files(documents)
    return _outcome_of(source.data)


def sample(field: Field) -> Any:
    if field.name in INSTEAD:
        return INSTEAD[field.name].value
    return field.schema["examples"][0]


def silent(field: Field) -> bool:
    alone = len(field.pointer) == 1 and str(field.pointer[0]) in SILENT
    return field.name in SILENT or alone


def tries(field: Field) -> Iterator[tuple[Outcome | str, Outcome | str]]:
    """What comes out with the field as it is in the reference, and with its example."""
    value = sample(field)
    for number, one in enumerate(reference()):
        if one.value["kind"] != field.kind:
            continue
        for place in places(one.value, field.pointer):
            base = _with(field, list(reference()))
            changed = list(base)
            changed[number] = base[number].changed(place, value)
            yield outcome(base), outcome(changed)


def overlaid(field: Field) -> Iterator[tuple[Outcome | str, Outcome | str]]:
    """The same, said by the overlay of each environment."""
    value = sample(field)
    for number, one in enumerate(reference()):
        if one.value["kind"] != field.kind:
            continue
        for place in places(one.value, field.pointer):
            for environment in ("prod", "staging"):
                base = _with(field, list(reference()))
                changed = list(base)
                at = ("spec", "environments", environment, *place[1:])
                changed[number] = base[number].changed(at, value)
                yield outcome(base), outcome(changed)


def _with(field: Field, documents: list[Text]) -> list[Text]:
    for name, pointer, value in WITH.get(field.name, ()):
        documents = [one.changed(pointer, value) if one.name == name else one for one in documents]
    return documents


ALL = fields()
READ = [field for field in ALL if not silent(field)]
PATCHED = [
    field
    for field in READ
    if field.kind != "Environment"
    and field.pointer[0] == "spec"
    and field.pointer[1] not in ("targets", "environments")
    and 0 not in field.pointer
]


def test_the_reference_compiles() -> None:
    found = outcome(reference())
    assert not isinstance(found, str), found


@pytest.mark.parametrize("field", READ, ids=[field.name for field in READ])
def test_every_field_changes_a_file_or_a_row(field: Field) -> None:
    errors = _judge(field, tries(field))
    assert errors is None, errors


@pytest.mark.parametrize("field", PATCHED, ids=[field.name for field in PATCHED])
def test_every_field_of_an_overlay_changes_a_file_or_a_row(field: Field) -> None:
    errors = _judge(field, overlaid(field))
    assert errors is None, errors


def _judge(field: Field, found: Iterator[tuple[Outcome | str, Outcome | str]]) -> str | None:
    errors = []
    for before, after in found:
        if isinstance(after, str) or isinstance(before, str):
            errors.append(str(after if isinstance(after, str) else before))
        elif before != after:
            return None
        else:
            errors.append("accepted, and nothing changed\n")
    return f"{field.name} is ignored:\n" + "".join(dict.fromkeys(errors))


# The examples themselves


WITH_EXAMPLES = [
    field
    for field in ALL
    if field.pointer[-1] not in (ENTRY, 0) and field.pointer not in (("metadata",), ("spec",))
]


@pytest.mark.parametrize("field", WITH_EXAMPLES, ids=[field.name for field in WITH_EXAMPLES])
def test_every_field_has_a_valid_example_that_is_not_its_default(field: Field) -> None:
    examples = field.schema.get("examples")
    assert examples, "no example"
    validator = jsonschema_rs.Draft202012Validator({**field.schema, "$defs": schemas()[field.kind]["$defs"]})
    for example in examples:
        assert not [error.message for error in validator.iter_errors(example)]
    assert "default" not in field.schema or examples[0] != field.schema["default"]
    assert field.schema.get("description")


@pytest.mark.parametrize("name", [name for name in (*INSTEAD, *WITH, *SILENT) if "." in name])
def test_the_tables_name_fields_that_there_are(name: str) -> None:
    assert name in {field.name for field in ALL}


# Limits: they change whether something compiles, not what it compiles to


def _set(name: str, pointer: Pointer, value: Any) -> list[Text]:
    return [one.changed(pointer, value) if one.name == name else one for one in reference()]


@pytest.mark.parametrize(
    ("pointer", "too_little", "code"),
    [
        (("spec", "monitoring", "retention"), "29d", "MW210"),
        (("spec", "gpus", "t4", "count"), 2, "MW216"),
        (("spec", "gpus", "t4", "perNode"), 1, "MW208"),
    ],
)
def test_a_limit_decides_whether_specs_compile(pointer: Pointer, too_little: Any, code: str) -> None:
    documents = [
        one.changed(("spec", "gpu", "count"), 2) if one.name == "Resource gpu-small" else one
        for one in _set("Environment prod", pointer, too_little)
    ]
    enough = [
        one.changed(pointer, value_at(reference()[0].value, pointer))
        if one.name == "Environment prod"
        else one
        for one in documents
    ]
    assert code in str(outcome(documents))
    assert not isinstance(outcome(enough), str)


@pytest.mark.parametrize("required", [True, False])
def test_require_digests_decides_whether_weights_without_one_compile(required: bool) -> None:
    documents = [
        one.without(("spec", "artifact", "digest")) if one.name == "Model search/other" else one
        for one in reference()
    ]
    documents = [
        one.changed(("spec", "requireDigests"), required)
        if one.name in ("Environment prod", "Environment bare", "Environment staging")
        else one
        for one in documents
    ]
    assert isinstance(outcome(documents), str) is required
