"""Golden trees, one for each concern: ``<case>/specs`` compiles to ``<case>/expected``, to the byte.

``diagnostics.txt`` beside them is what the compiler says. To see what a change does to all of them:
``pytest tests/golden --update`` and look at the diff.
"""

from __future__ import annotations

import difflib
import json
import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from ruamel.yaml import YAML

from modelway.diagnostics import Severity
from modelway.pipeline import Compilation, compile_specs
from modelway.sources import read_specs
from modelway.tree import index_files
from tests.support.kube_schemas import errors, is_custom, need_crds
from tests.support.spec_text import shown

HERE = Path(__file__).parent
CASES = sorted(path.parent.name for path in HERE.glob("*/specs"))
_MOST_LINES = 60  # of a diff of one file


def compile_case(case: str) -> Compilation:
    sources, unread = read_specs(HERE / case / "specs", shown="specs")
    assert not unread
    return compile_specs(sources)


@cache
def compiled(case: str) -> Compilation:
    return compile_case(case)


def tree(case: str) -> dict[str, bytes]:
    """Everything that ``modelway compile`` would write, the index included."""
    files = compiled(case).files
    return {**{file.path: file.data for file in files}, **index_files(files)}


def kept(case: str) -> dict[str, bytes]:
    folder = HERE / case / "expected"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def write(case: str) -> None:
    """Make the expected tree what the case compiles to: what is stale goes, empty folders with it."""
    folder = HERE / case / "expected"
    wanted = tree(case)
    for path in kept(case).keys() - wanted.keys():
        (folder / path).unlink()
    for path, data in wanted.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    for below in sorted((one for one in folder.rglob("*") if one.is_dir()), reverse=True):
        if not any(below.iterdir()):
            below.rmdir()
    (HERE / case / "diagnostics.txt").write_text(shown(compiled(case).diagnostics), encoding="utf-8")


def differences(expected: dict[str, bytes], found: dict[str, bytes]) -> str:
    """What a person needs to see: names of files, and the lines that differ."""
    parts = [f"missing: {path}\n" for path in sorted(expected.keys() - found.keys())]
    parts += [f"unexpected: {path}\n" for path in sorted(found.keys() - expected.keys())]
    for path in sorted(expected.keys() & found.keys()):
        if expected[path] != found[path]:
            before, after = (
                one.decode(errors="backslashreplace").splitlines() for one in (expected[path], found[path])
            )
            lines = list(
                difflib.unified_diff(before, after, f"expected/{path}", f"compiled/{path}", lineterm="")
            )
            more = len(lines) - _MOST_LINES
            parts += [f"{line}\n" for line in lines[:_MOST_LINES]]
            parts += [f"… {more} more lines\n"] if more > 0 else []
            parts += [f"{path} differs in its line breaks only\n"] if not lines else []
    return "".join(parts)


def test_there_are_cases() -> None:
    assert len(CASES) >= 17
    assert not [
        path.name for path in HERE.iterdir() if path.is_dir() and path.name not in (*CASES, "__pycache__")
    ]


@pytest.mark.parametrize("case", CASES)
def test_it_compiles_to_what_is_kept(case: str, update: bool) -> None:
    failed = [one for one in compiled(case).diagnostics if one.severity is Severity.ERROR]
    assert not failed, shown(failed)
    if update:
        write(case)
    found = differences(kept(case), tree(case))
    assert not found, f"\n{found}\nIf it is meant: pytest tests/golden --update"


@pytest.mark.parametrize("case", CASES)
def test_the_compiler_says_what_is_kept(case: str, update: bool) -> None:
    path = HERE / case / "diagnostics.txt"
    if update:
        path.write_text(shown(compiled(case).diagnostics), encoding="utf-8")
    assert shown(compiled(case).diagnostics) == path.read_text(encoding="utf-8")


@pytest.mark.parametrize("case", CASES)
def test_a_second_compile_gives_the_same_bytes(case: str) -> None:
    again = compile_case(case)
    assert again.files == compiled(case).files
    assert again.diagnostics == compiled(case).diagnostics


def _same(one: Any, other: Any) -> bool:
    """Equal, and of the same types all the way down: 1, 1.0 and true are three values."""
    if isinstance(one, dict) and isinstance(other, dict):
        return list(one) == list(other) and all(_same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(_same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return type(one) is type(other) and bool(one == other)


@pytest.mark.parametrize("case", CASES)
def test_every_reader_reads_the_same(case: str) -> None:
    """YAML 1.1 (PyYAML) and 1.2 (ruamel.yaml, without the types that keep its style)."""
    for path, data in tree(case).items():
        if path.endswith(".json"):
            assert isinstance(json.loads(data), dict)
        one = yaml.safe_load(data)
        other = YAML(typ="safe", pure=True).load(data)
        assert _same(one, other), path
        if path.endswith(".json"):
            assert _same(one, json.loads(data)), path


@pytest.mark.parametrize("case", CASES)
def test_every_object_passes_its_schema(case: str) -> None:
    version = {}
    for path in sorted((HERE / case / "specs").glob("*.yaml")):
        for one in yaml.safe_load_all(path.read_bytes()):
            if one["kind"] == "Environment" and "cluster" in one["spec"]:
                version[one["metadata"]["name"]] = one["spec"]["cluster"]["kubernetes"]
    in_clusters = [file for file in compiled(case).files if file.path.partition("/")[0] in version]
    assert bool(in_clusters) == bool(version), "a laptop has no objects"
    for file in in_clusters:
        value = yaml.safe_load(file.data)
        if is_custom(value):
            need_crds()
        assert errors(value, version[file.path.partition("/")[0]]) == [], file.path


def test_a_difference_is_told_readably() -> None:
    expected = {"a": b"one\ntwo\n", "b": b"", "c": b"x\n", "d": b"x\r\n"}
    found = {"a": b"one\n2\n", "c": b"x\n", "d": b"x\n", "e": b""}
    assert differences(expected, found).splitlines() == [
        "missing: b",
        "unexpected: e",
        "--- expected/a",
        "+++ compiled/a",
        "@@ -1,2 +1,2 @@",
        " one",
        "-two",
        "+2",
        "d differs in its line breaks only",
    ]
    assert not differences(expected, expected)
