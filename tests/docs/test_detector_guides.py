"""Guides of the detector: their examples do what they say, and what they show is what is printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

import click
import jsonschema
import pytest
import yaml

from modelway.spec.schema import schemas
from modelway_runtime import cli
from tests.docs.guide_blocks import GUIDES, ROOT, Reader, blocks
from tests.docs.test_guides import merged
from tests.support import serving
from tests.support.checking import every

ALL = ("verdicts", "detector", "canary-gates", "replay")


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> Reader:
    """Who has followed the guide to files."""
    found = Reader(tmp_path_factory.mktemp("replay"))
    serving.write_model(found.folder / "models", "ranker", serving.mlp())  # for the reader's settings
    found.follow(GUIDES / "replay.md")
    return found


def test_what_the_guide_to_verdicts_shows(reader: Reader, tmp_path: Path) -> None:
    guide = tmp_path / "guide.md"
    comment = "modelway-runtime detect --env dev --model ranker --series ranker.csv --format markdown"
    guide.write_text(f"```console\n$ {comment} --output comment.md\n```\n")
    reader.follow(guide)
    printed = _without_numbers((reader.folder / "comment.md").read_text("utf-8"))
    shown = [block.text for block in blocks(GUIDES / "verdicts.md") if block.language == "markdown"]
    assert shown
    for text in shown:
        assert _without_numbers(text.strip()) in printed


def _without_numbers(text: str) -> str:
    return re.sub(r"\d+(\.\d+)*", "N", text)


def test_the_saved_verdict_of_the_guide(reader: Reader) -> None:
    """Its file has every minute from its first to its last: what lies before the first is not missing."""
    (path,) = (reader.folder / "verdicts").glob("*[0-9].json")
    metrics = json.loads(path.read_text("utf-8"))["metrics"]
    assert {metric["missing_ratio"] for metric in metrics} == {0.0}


def test_commands_and_options_exist() -> None:
    texts = [
        block.text
        for name in ALL
        for block in blocks(GUIDES / f"{name}.md")
        if block.language in ("sh", "console")
    ]
    for command, rest in every(re.findall(r"modelway-runtime (\w+)([^|;&\n#]*)", "\n".join(texts))):
        options = (one for one in cli.main.commands[command].params if isinstance(one, click.Option))
        known = {name for one in options for name in one.opts}
        assert set(re.findall(r"(--[a-z-]+)", rest)) <= known, rest


def test_specs_of_the_guides_are_valid() -> None:
    bases = {
        "detector": ROOT / "specs/environments/prod.yaml",
        "canary-gates": ROOT / "specs/search/ranker.yaml",
    }
    seen = []
    for name, base in bases.items():
        whole = next(yaml.safe_load_all(base.read_text("utf-8")))
        for block in blocks(GUIDES / f"{name}.md"):
            if block.language == "yaml":
                spec = yaml.safe_load(block.text)
                spec = spec if "kind" in spec else merged(whole, spec)
                jsonschema.validate(spec, schemas()[spec["kind"]])
                seen.append(spec["kind"])
    assert sorted(seen) == ["Alert", "Environment", "Model"]


def test_the_architecture_names_every_module_of_the_detector() -> None:
    page = (ROOT / "docs/architecture.md").read_text("utf-8").partition("## The detector")[2]
    named = set(re.findall(r"`(?:report/)?(\w+)(?:\.py|/)`", page))
    package = ROOT / "runtime" / "modelway_runtime" / "detection"
    modules = {path.stem for folder in (package, package / "report") for path in folder.glob("*.py")}
    assert {name for name in modules if not name.startswith("__")} <= named


def test_the_run_that_tries_the_token_is_the_shops() -> None:
    (shown,) = re.findall(
        r"^(detector-gate-[0-9a-f]+) ", (GUIDES / "detector.md").read_text("utf-8"), re.MULTILINE
    )
    assert (ROOT / f"generated/prod/_platform/search/analysisrun-{shown}.yaml").is_file()
