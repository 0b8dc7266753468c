"""What must change nothing: order, empty overlays, cutting into files, comments, machine and locale."""

from __future__ import annotations

import os
import random
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import modelway
from modelway import __version__
from modelway.load import load
from modelway.pipeline import compile_specs
from modelway.sources import SourceFile, read_specs
from tests.support.shop import ROOT
from tests.support.shop import compiled as shop
from tests.support.spec_text import (
    Text,
    compiled,
    data,
    different,
    dump,
    files,
    shown,
    shuffled,
    texts,
    words,
)

SPECS = ROOT / "specs"
seeds = st.integers(min_value=0, max_value=2**32 - 1)
few = settings(deadline=None, max_examples=30)


@cache
def sources() -> tuple[SourceFile, ...]:
    found, unread = read_specs(SPECS, shown="specs")
    assert not unread
    return tuple(found)


@cache
def documents() -> tuple[Text, ...]:
    return tuple(texts(sources()))


@cache
def reference() -> dict[str, bytes]:
    return data(shop())


def same(other: dict[str, bytes]) -> None:
    assert different(reference(), other) == []


def test_the_dump_of_these_tests_keeps_the_values() -> None:
    for document in documents():
        loaded, wrong = load(SourceFile("x.yaml", dump(document.value).encode()))
        assert not wrong
        assert [one.value for one in loaded] == [document.value]
    same(data(compiled(documents())))


# Order


@few
@given(seeds)
def test_any_order_of_files_documents_and_keys(seed: int) -> None:
    chance = random.Random(seed)
    mixed = [Text(one.path, shuffled(one.value, chance)) for one in documents()]
    chance.shuffle(mixed)
    compilation = compiled(mixed)
    same(data(compilation))
    assert words(compilation.diagnostics) == words(shop().diagnostics)


@settings(deadline=None, max_examples=10)
@given(st.permutations(range(len(sources()))))
def test_any_order_of_source_files_gives_the_same_diagnostics_at_the_same_places(order: list[int]) -> None:
    compilation = compile_specs([sources()[i] for i in order])
    same(data(compilation))
    assert compilation.diagnostics == shop().diagnostics


# Empty overlays


def _free(one: Text, environment: str) -> bool:
    """Whether a spec is for an environment and has no overlay for it."""
    spec = one.value["spec"]
    overlaid = one.value["kind"] == "Environment" or environment in spec.get("environments", {})
    return not overlaid and environment in spec.get("targets", [environment])


@pytest.mark.parametrize("environment", shop().environments)
def test_an_empty_overlay(environment: str) -> None:
    changed = []
    for one in documents():
        if _free(one, environment):
            one = one.changed(("spec", "environments", environment), {})
        changed.append(one)
    assert changed != list(documents())
    same(data(compiled(changed)))


@pytest.mark.parametrize("environment", shop().environments)
def test_an_overlay_of_empty_mappings(environment: str) -> None:
    """Every mapping that the spec has, patched with nothing."""

    def hollow(value: Any) -> Any:
        return {key: hollow(item) for key, item in value.items() if isinstance(item, dict)}

    changed = []
    for one in documents():
        if _free(one, environment):
            patch = hollow({key: item for key, item in one.value["spec"].items() if key != "environments"})
            one = one.changed(("spec", "environments", environment), patch)
        changed.append(one)
    same(data(compiled(changed)))


def test_empty_defaults_of_an_environment() -> None:
    changed = [
        one.changed(("spec", "defaults"), {"model": {}})
        if one.value["kind"] == "Environment" and "defaults" not in one.value["spec"]
        else one
        for one in documents()
    ]
    same(data(compiled(changed)))


# Cutting into files


def test_one_document_a_file() -> None:
    cut = [Text(f"specs/{number}.yaml", one.value) for number, one in enumerate(documents())]
    compilation = compiled(cut)
    same(data(compilation))
    assert words(compilation.diagnostics) == words(shop().diagnostics)


def test_all_documents_in_one_file() -> None:
    compilation = compiled([Text("specs/all.yaml", one.value) for one in documents()])
    same(data(compilation))
    assert words(compilation.diagnostics) == words(shop().diagnostics)


@pytest.mark.parametrize("separator", ["---\n", "--- \n", "--- # next\n", "...\n---\n", "\n\n---\n\n"])
def test_the_files_of_the_shop_joined_as_text(separator: str) -> None:
    joined = separator.encode().join(source.data for source in sources())
    compilation = compile_specs([SourceFile("specs/all.yaml", joined)])
    same(data(compilation))
    assert words(compilation.diagnostics) == words(shop().diagnostics)


@few
@given(st.lists(st.sampled_from("abcdef"), min_size=len(documents()), max_size=len(documents())))
def test_any_spread_over_files(names: list[str]) -> None:
    spread = [Text(f"specs/{name}.yaml", one.value) for name, one in zip(names, documents(), strict=True)]
    same(data(compiled(spread)))


# What is not a value


@few
@given(seeds)
def test_comments_blank_lines_and_the_style_of_line_breaks(seed: int) -> None:
    """The shop's specs hold no text of several lines, so that a comment may stand between any two."""
    chance = random.Random(seed)
    noise = ("", "   ", "# kind: Model", "      # - {{ no }}", "#", "# é ☃ \N{GRINNING FACE}", "#\t--- x")
    changed = []
    for source in sources():
        lines = []
        for line in source.data.decode().splitlines():
            lines += chance.choices(noise, k=chance.choice((0, 0, 1, 2)))
            lines.append(line + chance.choice(("", "", " ", "  # why")))
        text = chance.choice(("\n", "\r\n")).join(lines) + chance.choice(("", "\n", "\n\n# end\n"))
        changed.append(SourceFile(source.path, text.encode()))
    compilation = compile_specs(changed)
    same(data(compilation))
    assert words(compilation.diagnostics) == words(shop().diagnostics)


# The machine


def _run(tmp_path: Path, name: str, cwd: Path, umask: int, **variables: str) -> dict[str, bytes]:
    output = tmp_path / name
    kept = {key: os.environ[key] for key in ("PATH", "HOME") if key in os.environ}
    arguments = ("--quiet", "--specs", os.path.relpath(SPECS, cwd), "--output", str(output))
    ran = subprocess.run(
        [sys.executable, "-c", "from modelway.cli import run; run()", "compile", *arguments],
        cwd=cwd,
        env={**kept, "PYTHONPATH": str(Path(modelway.__file__).parents[1]), **variables},
        umask=umask,
        capture_output=True,
        timeout=60,
    )
    assert ran.returncode == 0, ran.stderr.decode(errors="replace")
    return {
        path.relative_to(output).as_posix(): path.read_bytes() for path in output.rglob("*") if path.is_file()
    }


def test_locale_hash_seed_time_zone_umask_and_working_folder(tmp_path: Path) -> None:
    here = _run(tmp_path, "one", ROOT, 0o022, LC_ALL="C.UTF-8", PYTHONHASHSEED="0", TZ="UTC")
    there = _run(
        tmp_path,
        "two",
        tmp_path,
        0o077,
        LC_ALL="C",
        LANG="tr_TR.UTF-8",
        PYTHONHASHSEED="4711",
        PYTHONUTF8="0",
        TZ="Pacific/Kiritimati",
        COLUMNS="20",
        HOSTNAME="elsewhere",
        USER="somebody",
    )
    assert different(here, there) == []
    assert {path: here[path] for path in reference()} == reference()


def test_compiling_asks_for_neither_clock_nor_host_nor_chance(monkeypatch: pytest.MonkeyPatch) -> None:
    here = threading.get_ident()  # pytest's own threads may ask for what they like

    def refuse(what: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def asked(*args: Any, **kwargs: Any) -> Any:
            if threading.get_ident() == here:
                raise AssertionError(f"compiling asked for {what}")
            return real(*args, **kwargs)

        return asked

    given_ = list(sources())
    reference()
    for module, names in (
        (time, ("time", "time_ns", "localtime", "gmtime", "strftime")),
        (socket, ("gethostname", "getfqdn")),
        (random, ("random", "randint", "choice", "shuffle")),
        (os, ("getcwd", "uname", "urandom", "getpid", "listdir", "scandir", "stat", "open", "getlogin")),
    ):
        for name in names:
            monkeypatch.setattr(module, name, refuse(f"{module.__name__}.{name}", getattr(module, name)))
    compilation = compile_specs(given_)
    monkeypatch.undo()
    same(data(compilation))


def test_no_absolute_path_and_no_version_of_the_tool_in_a_generated_file() -> None:
    read, unread = read_specs(SPECS, shown=str(SPECS))  # as if every diagnostic named the whole path
    found = data(compile_specs(read, unread))
    same(found)
    version = re.compile(rf"(?<![\d.]){re.escape(__version__)}(?![\d.])".encode())
    for path, content in found.items():
        for word in (str(ROOT), str(Path.home()), os.sep.join(("", "tmp", "pytest"))):
            if len(word) > 2:
                assert word.encode() not in content, f"{path} holds {word}"
        assert not version.search(content), f"{path} holds the version of Modelway"


def test_every_date_in_a_generated_file_was_written_in_a_spec() -> None:
    written = b"".join(source.data for source in sources())
    dates = re.compile(rb"\b20[0-9]{2}-?[01][0-9]-?[0-3][0-9]\b(?:T[0-9:.]+Z?)?")
    for path, content in reference().items():
        for date in dates.findall(content):
            assert date in written, f"{path} holds the date {date.decode()}"


# An environment of its own


PATCHES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("Model search/ranker", {"version": "99.0.0"}),
    ("Model search/ranker", {"serving": {"timeouts": {"drain": "77s"}}}),
    ("Model search/ranker-lite", {"serving": {"cache": {"size": "1Mi"}}}),
    ("Model search/encoder", {"lineage": {"architecture": "another"}}),
    ("Model recommendation/recommender", {"serving": {"protocols": {"grpc": False}}}),
    ("Resource cpu-small", {"cpu": "3", "priority": 7}),
    ("Resource gpu-small", {"memory": "17Gi"}),
    ("Alert search/search-critical", {"thresholds": {"latency": {"above": "33ms"}}}),
    ("Alert search/ranker-slo", {"objectives": {"latency": {"threshold": "44ms"}}}),
)


def _for(name: str) -> tuple[str, ...]:
    """The environments that a spec of the shop is for."""
    spec = next(one for one in documents() if one.name == name).value["spec"]
    return tuple(spec.get("targets", shop().environments))


@pytest.mark.parametrize(
    ("environment", "name", "patch"),
    [(environment, name, patch) for name, patch in PATCHES for environment in _for(name)],
)
def test_an_overlay_changes_its_environment_alone(environment: str, name: str, patch: dict[str, Any]) -> None:
    changed = []
    for one in documents():
        if one.name == name:
            before = one.value["spec"].get("environments", {}).get(environment, {})
            one = one.changed(("spec", "environments", environment), _merged(before, patch))
        changed.append(one)
    after = data(compiled(changed))
    paths = different(reference(), after)
    assert {path.partition("/")[0] for path in paths} <= {environment}
    if not (environment == "local" and name.startswith("Resource")):  # a laptop has no pods to size
        assert paths, "the overlay says something, and nothing changed"


def _merged(base: dict[str, Any], patch: dict[str, Any]) -> dict[str, Any]:
    found = dict(base)
    for key, value in patch.items():
        found[key] = _merged(found.get(key, {}), value) if isinstance(value, dict) else value
    return found


def test_the_words_of_this_file_are_of_the_shop() -> None:
    names = {one.name for one in documents()}
    assert {name for name, _ in PATCHES} <= names
    assert not shown([one for one in shop().diagnostics if one.severity.word == "error"])
    assert len(files(documents())) == len(sources())
