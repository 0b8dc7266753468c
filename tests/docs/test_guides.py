"""Guides of the runtime: their examples do what they say, and their links lead somewhere."""

from __future__ import annotations

import json
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import yaml

from modelway.spec.schema import schemas
from modelway_runtime import cli
from tests.docs.guide_blocks import GUIDES, ROOT, Reader, blocks, commands, matches
from tests.support import serving
from tests.support.checking import every

FIRST = GUIDES / "serve-on-a-laptop.md"
ALL = ("serve-on-a-laptop", "serving-in-a-cluster", "callers", "standby", "reload-and-versions",
       "batching-and-cache")  # fmt: skip


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    """With the model of the first guide."""
    found = Reader(tmp_path)
    makes = next(block for block in blocks(FIRST) if block.language == "python")
    guide = tmp_path / ".first.md"
    guide.write_text(f"```python\n{makes.text}```\n")
    found.follow(guide)
    yield found
    found.close()


def test_the_first_guide(tmp_path: Path) -> None:
    found = Reader(tmp_path)
    found.follow(FIRST)
    found.close()


@pytest.mark.parametrize(
    "name", ["serving-in-a-cluster", "callers", "reload-and-versions", "batching-and-cache"]
)
def test_a_guide(name: str, reader: Reader) -> None:
    reader.follow(GUIDES / f"{name}.md")


def test_the_guide_to_standbys(reader: Reader) -> None:
    shutil.copytree(reader.folder / "models/ranker", reader.folder / "models/ranker-lite")
    reader.follow(GUIDES / "standby.md")


def test_the_readme(reader: Reader) -> None:
    """Its section on serving; the rest is the compiler's."""
    section = re.search(
        r"^## Serve a model\n(.*?)^## ", (ROOT / "README.md").read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    assert section
    guide = reader.folder / ".readme.md"
    guide.write_text(section[1])
    assert any(commands(block.text) for block in blocks(guide) if block.language == "console")
    reader.follow(guide)


def test_what_a_guide_prints_is_compared() -> None:
    assert matches(
        '12:00:00 INFO ready after 0.07 s\n{"a": …}', '13:14:15 INFO ready after 1.2 s\n{"a": 1}\n'
    )
    assert not matches("200", "401\n")
    assert not matches("", "error")


PAGES = [
    *sorted(GUIDES.glob("*.md")),
    *(ROOT / name for name in ("README.md", "CHANGELOG.md", "docs/architecture.md", "docs/contract.md")),
    *sorted((ROOT / "docs/decisions").glob("*.md")),
]


def links(page: Path) -> list[str]:
    """Where a page leads within the repository."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if not link.startswith("https://")]


@pytest.mark.parametrize(
    ("page", "link"),
    [
        pytest.param(page, link, id=f"{page.stem}-{link}")
        for page in PAGES
        for link in sorted(set(links(page)))
    ],
)
def test_links_lead_somewhere(page: Path, link: str) -> None:
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    assert target.exists()
    if anchor:
        text = target.read_text("utf-8")
        headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in anchors | set(re.findall(r'<a id="([^"]+)">', text))


def test_the_guides_have_links() -> None:
    assert len([link for page in PAGES for link in links(page)]) > 20


@pytest.mark.parametrize("name", ALL)
def test_options_that_a_guide_names_exist(name: str) -> None:
    for block in blocks(GUIDES / f"{name}.md"):
        if block.language not in ("sh", "console"):
            continue
        for command, rest in re.findall(r"modelway-runtime (\w+)([^|;&\n]*)", block.text):
            known = {
                name
                for p in cli.main.commands[command].params
                for name in p.opts
                if isinstance(p, click.Option)
            }
            assert set(re.findall(r"(--[a-z-]+)", rest)) <= known, rest


def test_specs_of_the_guides_are_valid() -> None:
    ranker = next(yaml.safe_load_all((ROOT / "specs/search/ranker.yaml").read_text("utf-8")))
    validator = jsonschema.Draft202012Validator(schemas()["Model"])
    specs = [
        yaml.safe_load(block.text)
        for name in ALL
        for block in blocks(GUIDES / f"{name}.md")
        if block.language == "yaml" and block.text.startswith("spec:")
    ]
    for spec in every(specs):
        assert list(validator.iter_errors(merged(ranker, spec))) == []


def test_manifests_of_the_guide_are_what_is_generated() -> None:
    pod = yaml.safe_load((ROOT / "generated/staging/search/ranker/rollout-ranker.yaml").read_text("utf-8"))
    seen = 0
    for block in blocks(GUIDES / "serving-in-a-cluster.md"):
        if block.language == "yaml":
            assert_within(yaml.safe_load(block.text), pod["spec"]["template"]["spec"])
            seen += 1
    assert seen == 2


def merged(base: Any, patch: Any) -> Any:
    if not (isinstance(base, dict) and isinstance(patch, dict)):
        return patch
    return {**base, **{key: merged(base.get(key), value) for key, value in patch.items()}}


def assert_within(part: Any, whole: Any) -> None:
    """Every key of ``part`` is in ``whole`` with that value; lists have the same length."""
    if isinstance(part, dict):
        for key, value in part.items():
            assert_within(value, whole[key])
    elif isinstance(part, list):
        assert len(part) == len(whole)
        for one, other in zip(part, whole, strict=True):
            assert_within(one, other)
    else:
        assert part == whole


def test_model_json_of_the_guide_holds_the_defaults(tmp_path: Path) -> None:
    from modelway_runtime.serving.model_folder import scan

    block = next(block for block in blocks(GUIDES / "reload-and-versions.md") if block.language == "json")
    serving.write_model(tmp_path, "ranker", serving.mlp())
    defaults = scan(tmp_path)
    (tmp_path / "ranker" / "model.json").write_text(json.dumps(json.loads(block.text)))
    assert scan(tmp_path) == defaults


def test_the_architecture_names_every_module_of_the_runtime() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8").partition("## The runtime")[2]
    table = re.search(r"^\| module \|.*?\n\n", page, re.MULTILINE | re.DOTALL)
    assert table
    named = set(re.findall(r"`(\w+)(?:\.py|/)`", table[0]))
    package = ROOT / "runtime" / "modelway_runtime"
    modules = {path.stem for folder in (package, package / "serving") for path in folder.glob("*.py")}
    assert {name for name in modules if not name.startswith("__")} <= named
    assert {"grpc", "backends"} <= named


# What "Reload and versions" promises


def test_wrong_settings_at_a_reload_are_said_and_change_nothing(tmp_path: Path) -> None:
    serving.write_model(tmp_path, "mlp", serving.mlp())
    with serving.serving_folder(tmp_path, "--log-format", "text") as server:
        (tmp_path / "mlp" / "model.json").write_text('{"versions": "newest"}')
        server.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + 10
        while "model.json" not in server.log() and time.monotonic() < end:
            time.sleep(0.05)
        assert "model.json: Invalid enum value 'newest'" in server.log()
        assert "Traceback" not in server.log()
        assert server.ask("POST", "/v2/repository/models/mlp/load").status == 400
        assert "Traceback" not in server.log()
        assert server.ask("GET", "/v2/models/mlp/ready").status == 200


def test_a_new_version_that_fails_leaves_the_server_ready(tmp_path: Path) -> None:
    serving.write_model(tmp_path, "mlp", serving.mlp())
    with serving.serving_folder(tmp_path) as server:
        bad = tmp_path / "mlp" / "2" / "model.onnx"
        bad.parent.mkdir()
        bad.write_bytes(b"not a model")
        assert server.ask("POST", "/v2/repository/models/mlp/load").status == 400
        assert server.ask("GET", "/v2/models/mlp/ready").status == 200
        assert server.ask("GET", "/v2/health/ready").status == 200


def test_a_reload_while_it_loads_does_not_end_the_server(tmp_path: Path) -> None:
    weights = serving.write_model(tmp_path, "slow", serving.slow(0.3))
    settings = serving.settings_of([serving.served("slow", weights, warm_up={"rows": [1, 2, 3]})])
    with serving.serving_settings(settings, ready=False) as server:
        server.process.send_signal(signal.SIGHUP)
        serving.wait_until_ready(server)
        assert server.ask("GET", "/v2/models/slow/ready").status == 200
