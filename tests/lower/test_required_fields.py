"""A required field that is left out of any spec of the shop is an error that names it, in its mapping."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import pytest

from modelway.diagnostics import Severity
from modelway.pipeline import compile_specs
from modelway.sources import SourceFile, read_specs
from tests.lower.schema_fields import Pointer, fields, places
from tests.support.shop import ROOT
from tests.support.spec_text import Text, dump, files, shown, texts, value_at


@cache
def documents() -> tuple[Text, ...]:
    found, unread = read_specs(ROOT / "specs", shown="specs")
    assert not unread
    return tuple(texts(found))


def _cases() -> Iterator[tuple[int, Pointer]]:
    """Every occurrence of a required field: which document, where in it."""
    required = [field for field in fields() if field.required]
    for number, one in enumerate(documents()):
        for field in required:
            if field.kind == one.value["kind"]:
                for place in places(one.value, field.pointer):
                    yield number, place


def _name(case: tuple[int, Pointer]) -> str:
    return f"{documents()[case[0]].name}-{'.'.join(map(str, case[1]))}"


CASES = list(_cases())


def _lines(sources: list[SourceFile], document: Text) -> tuple[int, int]:
    """First and last line of a document, in the file that holds it."""
    text = next(source.data.decode() for source in sources if source.path == document.path)
    before, found, _ = text.partition(dump(document.value))
    assert found
    first = before.count("\n") + 1
    return first, first + found.count("\n") - 1


def test_there_are_required_fields_everywhere() -> None:
    assert {number for number, _ in CASES} == set(range(len(documents())))
    assert len(CASES) > 200


@pytest.mark.parametrize("case", CASES, ids=map(_name, CASES))
def test_leaving_out_a_required_field(case: tuple[int, Pointer]) -> None:
    number, place = case
    changed = list(documents())
    changed[number] = changed[number].without(place)
    sources = files(changed)
    compilation = compile_specs(sources)
    assert compilation.files == ()
    failed = [one for one in compilation.diagnostics if one.severity is Severity.ERROR]
    assert len(failed) == 1, shown(failed)  # a spec that is wrong makes no reference to it wrong
    error = failed[0]
    assert error.code == ("MW101" if place in (("apiVersion",), ("kind",)) else "MW105")
    assert str(place[-1]) in error.message
    assert error.span.path == changed[number].path
    first, last = _lines(sources, changed[number])
    assert first <= error.span.line <= last, f"lines {first} to {last}: {shown(failed)}"
    if len(place) > 1 and error.code == "MW105":
        line = sources[_file(sources, error.span.path)].data.decode().split("\n")[error.span.line - 1]
        holder = place[-2]
        assert not isinstance(holder, str) or str(holder) in line, f"{line} does not begin {holder}"


def _file(sources: list[SourceFile], path: str) -> int:
    return [source.path for source in sources].index(path)


@pytest.mark.parametrize("case", CASES, ids=map(_name, CASES))
def test_emptying_a_required_field(case: tuple[int, Pointer]) -> None:
    """``name:`` with nothing behind it is an error at that very line."""
    number, place = case
    changed = list(documents())
    changed[number] = changed[number].changed(place, None)
    sources = files(changed)
    failed = [one for one in compile_specs(sources).diagnostics if one.severity is Severity.ERROR]
    assert failed
    assert value_at(changed[number].value, place) is None
    first, last = _lines(sources, changed[number])
    here = [one.span.line for one in failed if one.span.path == changed[number].path]
    text = sources[_file(sources, changed[number].path)].data.decode().split("\n")
    assert any(first <= line <= last and str(place[-1]) in text[line - 1] for line in here), shown(failed)


def test_leaving_out_what_an_overlay_still_says() -> None:
    """An overlay does not stand in for a required field: the spec by itself must be whole."""
    changed = [
        one.without(("spec", "version")).changed(("spec", "environments", "prod", "version"), "1.0.0")
        if one.name == "Model search/encoder"
        else one
        for one in documents()
    ]
    failed = [one for one in compile_specs(files(changed)).diagnostics if one.severity is Severity.ERROR]
    assert [one.code for one in failed] == ["MW105"]


OVERLAID = [
    (number, place)
    for number, place in CASES
    if documents()[number].value["kind"] != "Environment"
    and len(place) > 1
    and place[0] == "spec"
    and not any(isinstance(step, int) for step in place)
    and "prod" in documents()[number].value["spec"].get("targets", ["prod"])
]


@pytest.mark.parametrize("case", OVERLAID, ids=map(_name, OVERLAID))
def test_deleting_a_required_field_in_an_overlay(case: tuple[int, Pointer]) -> None:
    """Null deletes; the error points into the overlay, which is where it went wrong."""
    number, place = case
    changed = list(documents())
    changed[number] = changed[number].changed(("spec", "environments", "prod", *place[1:]), None)
    sources = files(changed)
    failed = [one for one in compile_specs(sources).diagnostics if one.severity is Severity.ERROR]
    assert [one.code for one in failed] == ["MW105"], shown(failed)
    assert f'"{place[-1]}"' in failed[0].message
    first, last = _lines(sources, changed[number])
    text = sources[_file(sources, changed[number].path)].data.decode().split("\n")
    overlay = next(i for i in range(first, last + 1) if text[i - 1].strip() == "prod:")
    assert overlay <= failed[0].span.line <= last, shown(failed)
