"""Whatever is done to a spec: files come out, or an error that points into the file; never an exception."""

from __future__ import annotations

import random
from copy import deepcopy
from functools import cache
from typing import Any

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from modelway.diagnostics import Severity
from modelway.emit import emit
from modelway.pipeline import Compilation, compile_specs, list_models
from modelway.report.listing import data as listed
from modelway.report.listing import table
from modelway.sources import SourceFile, read_specs
from tests.support.shop import ROOT
from tests.support.spec_text import Text, files, pointers, shown, texts, value_at

ODD: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 99, 100, 10**6, 10**17, -(10**17), 0.0, -0.5, 0.5, 1.0, 99.9, 1e-9, 1e15,
    "", " ", "x", "a/b", "../x", "search", "ranker", "ranker-lite", "search/ranker", "prod", "local", "gpu-small",
    "0", "1", "0s", "1ms", "90s", "30d", "999999999d", "999999999ms", "1Ki", "999999999999Ti", "1.5Gi", "0.001",
    "{{ x }}", "{{args.canary-hash}}", "$(HOME)", "${x}", "$__interval", "%s", "<b>", "a\nb", "a\tb", "é☃",
    "x" * 63, "x" * 64, "x" * 300, "-", "a-", "a.b", "no", "01494e89", "sha256:" + "a" * 64, "oci://a/b",
    "oci://a/b@sha256:" + "a" * 64, "file:x", "file:///x", "https://x.example/y?z#w", "s3://x/$(y)", "http://[::1]",
    [], [None], [[]], [{}], [1, 1], ["x"], [0], [-1, 64], {}, {"": 1}, {"x": None}, {"x": {"y": {}}}, {"model": "ranker"},
    {"above": "1ms"}, {"max": 0.5}, {"labels": {}}, "canary", "blueGreen", "rolling", "torch", "onnx", "28d", "30d",
)  # fmt: skip


@cache
def documents() -> tuple[Text, ...]:
    found, _ = read_specs(ROOT / "specs", shown="specs")
    return tuple(texts(found))


def mutate(found: list[Text], chance: random.Random) -> None:
    """One change of one document, in place."""
    which = chance.randrange(len(found))
    value = deepcopy(found[which].value)
    place = chance.choice(list(pointers(value)))
    holder = value_at(value, place[:-1])
    match chance.choice((0, 1, 2, 3, 3, 3, 4, 5, 6)):
        case 0:
            del holder[place[-1]]
        case 1 | 2:
            holder[place[-1]] = chance.choice(ODD)
        case 3:  # what another spec of the kind says there, or somewhere else
            others = [one.value for one in found if one.value.get("kind") == value.get("kind")]
            other = chance.choice(others or [value])
            at = place if place in set(pointers(other)) else chance.choice(list(pointers(other)))
            holder[place[-1]] = deepcopy(value_at(other, at))
        case 4:  # what any spec says anywhere
            other_document = chance.choice(found).value
            holder[place[-1]] = deepcopy(
                value_at(other_document, chance.choice(list(pointers(other_document))))
            )
        case 5:
            if isinstance(holder, dict):
                new = chance.choice(
                    ("x", "", "maxrows", "environments", "targets", "a/b", "<<", "x" * 400, "no")
                )
                holder[new] = holder.pop(place[-1])
            else:
                holder.insert(0, deepcopy(holder[-1]))
        case 6:  # an overlay says it instead
            environment = chance.choice(("local", "dev", "staging", "prod", "nowhere"))
            patch = {
                "serving": chance.choice(ODD),
                "rollout": chance.choice(ODD),
                "version": chance.choice(ODD),
            }
            overlay = {chance.choice(list(patch)): chance.choice(list(patch.values()))}
            if isinstance(value.get("spec"), dict):
                value["spec"]["environments"] = {environment: overlay}
    found[which] = Text(found[which].path, value)


def check(sources: list[SourceFile], compilation: Compilation) -> None:
    failed = [one for one in compilation.diagnostics if one.severity is Severity.ERROR]
    assert bool(failed) != bool(compilation.files), "files, or an error that says why there are none"
    lines = {source.path: source.data.decode().split("\n") for source in sources}
    for one in compilation.diagnostics:
        assert one.span.path in lines, one
        text = lines[one.span.path]
        assert 1 <= one.span.line <= len(text), one
        assert 1 <= one.span.column <= len(text[one.span.line - 1]) + 1, one
        assert (one.span.line, one.span.column) <= (one.span.end_line, one.span.end_column), one
        assert one.message.isprintable(), repr(one.message)
        for span, _ in one.related:
            assert span.path in lines, one


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**63), st.integers(1, 3))
def test_no_change_of_a_spec_raises(seed: int, times: int) -> None:
    chance = random.Random(seed)
    found = list(documents())
    for _ in range(times):
        mutate(found, chance)
    sources = files(found)
    compilation = compile_specs(sources)
    check(sources, compilation)
    listing = list_models(sources, [])
    listed(listing.rows)
    table(listing.rows)
    assert bool(listing.rows) != any(one.severity is Severity.ERROR for one in listing.diagnostics)


@settings(deadline=None, max_examples=80)
@given(st.integers(0, 2**63))
def test_a_mutant_that_compiles_compiles_again_to_the_same(seed: int) -> None:
    chance = random.Random(seed)
    found = list(documents())
    mutate(found, chance)
    sources = files(found)
    assert compile_specs(sources) == compile_specs(list(reversed(sources))), shown(
        compile_specs(sources).diagnostics
    )


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 2**63))
def test_cut_and_doubled_lines_of_the_shop_do_not_raise(seed: int) -> None:
    """Text rather than values: lines lost, doubled, moved and indented."""
    chance = random.Random(seed)
    sources, _ = read_specs(ROOT / "specs", shown="specs")
    which = chance.randrange(len(sources))
    lines = sources[which].data.decode().split("\n")
    for _ in range(chance.randrange(1, 4)):
        at = chance.randrange(len(lines))
        match chance.randrange(4):
            case 0:
                del lines[at]
            case 1:
                lines.insert(chance.randrange(len(lines)), lines[at])
            case 2:
                lines[at] = " " * chance.choice((1, 2, 4)) + lines[at]
            case 3:
                lines[at] = lines[at][: chance.randrange(len(lines[at]) + 1)]
        lines = lines or [""]
    sources[which] = SourceFile(sources[which].path, "\n".join(lines).encode())
    check(sources, compile_specs(sources))


def test_the_odd_values_are_odd_enough() -> None:
    """Each can be written and read back; the emitter takes them all."""
    for value in ODD:
        assert yaml.safe_load(emit({"value": value})) == {"value": value}
