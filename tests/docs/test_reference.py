"""The pages of the reference are what ``docs/make_reference.py`` makes, and it makes the same every time."""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import click
import pytest

from modelway.diagnostics import CODES
from modelway.report.explain import UnknownPathError, find
from modelway.spec.schema import KINDS, REPOSITORY, deref, schemas
from modelway_runtime import cli
from tests.diagnostics.examples import examples

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "docs" / "reference"


@cache
def maker() -> ModuleType:
    path = ROOT / "docs" / "make_reference.py"
    spec = importlib.util.spec_from_file_location("make_reference", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def pages() -> dict[str, str]:
    found: dict[str, str] = maker().pages()
    return found


def test_kept_pages_are_what_is_made() -> None:
    kept = {path.name: path.read_text("utf-8") for path in FOLDER.iterdir()}
    assert kept.keys() == pages().keys()
    stale = [name for name, text in pages().items() if kept[name] != text]
    assert not stale, f"stale: {stale}; run: make generated"


def test_the_same_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "40")
    assert maker().pages() == pages()
    assert not list(tmp_path.iterdir())


def test_nothing_of_this_machine() -> None:
    for name, text in pages().items():
        assert str(ROOT) not in text, name
        assert "/tmp" not in text.replace("emptyDir at /tmp", ""), name
        assert "\x1b" not in text, name
        assert "expect:" not in text, name


def test_a_section_shows_the_diagnostic() -> None:
    page = pages()["diagnostics.md"]
    sections = re.findall(r'^### <a id="([^"]+)"></a>(.*?)(?=^##|\Z)', page, re.MULTILINE | re.DOTALL)
    assert [anchor for anchor, _ in sections] == [code.lower() for code in CODES]
    for (code, entry), (_, section) in zip(CODES.items(), sections, strict=True):
        assert section.startswith(f"{code}: {entry.title}\n")
        assert f"{entry.severity.word}[{code}]: " in section
        for found in examples()[code][0].expected:
            assert f"--> {found.path}:{found.line}:" in section
        assert "Mended:" in section


@pytest.mark.parametrize("name", ["diagnostics.md", "specs.md", "runtime-commands.md"])
def test_links_lead_somewhere(name: str) -> None:
    page = pages()[name]
    anchors = set(re.findall(r'<a id="([^"]+)"', page))
    anchors |= {
        re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"^#+ (.+)$", page, re.MULTILINE)
    }
    links = re.findall(r"\]\(([^)]+)\)", re.sub(r"```.*?```", "", page, flags=re.DOTALL))
    assert links
    for link in links:
        if link.startswith("#"):
            assert link[1:] in anchors, link
        else:
            assert (FOLDER / link).resolve().exists(), link


def fields(root: dict[str, Any], node: dict[str, Any], path: str) -> Iterator[str]:
    """The path of every field below a mapping, but for those of merge patches."""
    for name, field in node["properties"].items():
        field = deref(root, field)
        here = f"{path}.{name}" if path else name
        yield here
        if "merge patch" in field["description"].lower():
            continue
        if "properties" in field:
            yield from fields(root, field, here)
        entries = field.get("additionalProperties")
        for suffix, inner in ((".<name>", entries), ("[]", field.get("items"))):
            if isinstance(inner, dict) and "properties" in (inner := deref(root, inner)):
                yield from fields(root, inner, here + suffix)


@pytest.mark.parametrize("kind", [*KINDS, REPOSITORY])
def test_every_field_stands_once(kind: str) -> None:
    start = kind if kind != REPOSITORY else ""
    known = list(fields(schemas()[kind], schemas()[kind], start))
    rows = re.findall(r"^\| `([^`]+)` \|", pages()["specs.md"], re.MULTILINE)
    shown = [row for row in rows if row.startswith(f"{kind}.")] or [row for row in rows if "." not in row]
    assert sorted(shown) == sorted(known)


def test_explain_knows_every_field() -> None:
    unknown = []
    for path in re.findall(r"^\| `([^`]+)` \|", pages()["specs.md"], re.MULTILINE):
        if "." in path and "[]" not in path:
            try:
                find(path.replace("<name>", "any"))
            except UnknownPathError as error:
                unknown.append(str(error))
    assert not unknown


def test_every_command_and_option_of_the_runtime_stands_once() -> None:
    page = pages()["runtime-commands.md"]
    sections = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## |\Z)", page, re.MULTILINE | re.DOTALL))
    assert list(sections) == sorted(cli.main.commands)
    for name, section in sections.items():
        options = [p for p in cli.main.commands[name].params if isinstance(p, click.Option)]
        rows = re.findall(r"^\| `(--[\w-]+)` \| .* \| (.*) \| (.*) \|$", section, re.MULTILINE)
        assert sorted(row[0] for row in rows) == sorted(option.opts[0] for option in options)
        required = [option.opts[0] for option in options if option.required]
        assert [option for option, default, _ in rows if default == "**required**"] == required


def test_the_kept_interface_has_every_path_of_the_server() -> None:
    document = json.loads(pages()["openapi.json"])
    assert document["openapi"] == "3.1.0"
    for path in ("/v2/models/{model}/infer", "/v2/health/ready", "/v2/repository/models/{model}/load"):
        assert path in document["paths"]
