"""What an overlay says is as if the spec said it there; null is as if the spec said nothing."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest

from modelway.diagnostics import Severity
from modelway.load import load
from modelway.pipeline import Compilation
from modelway.sources import SourceFile
from tests.lower.schema_fields import Pointer, fields, places
from tests.support.spec_text import Text, compiled, shown, value_at

EVERYTHING = Path(__file__).parents[1] / "lower" / "everything.yaml"
ENVIRONMENT = "prod"
PROD = f"Environment {ENVIRONMENT}"


@cache
def documents() -> tuple[Text, ...]:
    found, wrong = load(SourceFile("everything.yaml", EVERYTHING.read_bytes()))
    assert not wrong
    texts = [Text("everything.yaml", one.value) for one in found]
    # A null takes the environment's default away, too; without defaults it is as if nothing were written.
    bare = ("spec", "defaults")
    return tuple(one.changed(bare, {}) if one.name == PROD else one for one in texts)


def _cases() -> list[tuple[int, Pointer]]:
    """Every value of every spec that is for the environment and may be patched."""
    found = []
    for number, one in enumerate(documents()):
        if ENVIRONMENT not in one.value["spec"].get("targets", [ENVIRONMENT]):
            continue
        for field in fields():
            if field.kind == one.value["kind"] != "Environment" and 0 not in field.pointer:
                for place in places(one.value, field.pointer):
                    patched = (
                        len(place) > 1 and place[0] == "spec" and place[1] not in ("targets", "environments")
                    )
                    if patched and _is_there(one, place):
                        found.append((number, place))
    return found


def _is_there(one: Text, place: Pointer) -> bool:
    try:
        value_at(one.value, place)
    except KeyError:
        return False
    return True


CASES = _cases()
IDS = [f"{documents()[number].name}-{'.'.join(map(str, place))}" for number, place in CASES]


def _with(number: int, changed: Text) -> list[Text]:
    return [changed if i == number else one for i, one in enumerate(documents())]


def _files(compilation: Compilation) -> dict[str, bytes]:
    return {one.path: one.data for one in compilation.files if one.path.startswith(f"{ENVIRONMENT}/")}


def _errors(compilation: Compilation) -> list[str]:
    return sorted(one.code for one in compilation.diagnostics if one.severity is Severity.ERROR)


@pytest.mark.parametrize(("number", "place"), CASES, ids=IDS)
def test_null_is_as_if_it_were_not_written(number: int, place: Pointer) -> None:
    one = documents()[number]
    overlaid = compiled(_with(number, one.changed(("spec", "environments", ENVIRONMENT, *place[1:]), None)))
    without = compiled(_with(number, one.without(place)))
    if _errors(without):
        assert set(_errors(overlaid)) == set(_errors(without)), shown(overlaid.diagnostics)
    else:
        assert not _errors(overlaid), shown(overlaid.diagnostics)
        assert _files(overlaid) == _files(without)


@pytest.mark.parametrize(("number", "place"), CASES, ids=IDS)
def test_saying_it_again_changes_nothing(number: int, place: Pointer) -> None:
    one = documents()[number]
    again = one.changed(("spec", "environments", ENVIRONMENT, *place[1:]), value_at(one.value, place))
    found = compiled(_with(number, again))
    assert not _errors(found), shown(found.diagnostics)
    assert _files(found) == _files(compiled(documents()))


MODELS = [
    (name, *case)
    for name, case in zip(IDS, CASES, strict=True)
    if name.startswith("Model ") and "standby" not in case[1] and case[1] != ("spec", "serving")
]


@pytest.mark.parametrize(("number", "place"), [case[1:] for case in MODELS], ids=[case[0] for case in MODELS])
def test_a_default_of_the_environment_is_the_weakest_layer(number: int, place: Pointer) -> None:
    """What a model says itself wins over what the environment says for all of its models."""
    alone = documents()[number]
    if "standby" in alone.value["spec"]["serving"]:
        alone = alone.without(("spec", "serving", "standby"))
    others = [one for one in documents() if one.value["kind"] in ("Environment", "Resource")]
    at = ("spec", "defaults", "model", *place[1:])
    default = value_at(documents()[number].value, place)
    found = compiled([*(one.changed(at, default) if one.name == PROD else one for one in others), alone])
    wanted = compiled([*others, alone])
    assert not _errors(wanted), shown(wanted.diagnostics)
    assert not _errors(found), shown(found.diagnostics)
    assert _files(found) == _files(wanted)
