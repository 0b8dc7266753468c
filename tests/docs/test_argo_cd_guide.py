"""The guide to Argo CD: its objects are valid, bring every generated file once, and say what the tables say."""

from __future__ import annotations

import fnmatch
from collections import Counter
from functools import cache
from typing import Any

import pytest
import yaml

from modelway.lower.syncing import OWNED, SYNC_OPTIONS, ignore_differences
from tests.docs.guide_blocks import GUIDES, ROOT, blocks
from tests.support.kube_schemas import errors, need_crds

Json = dict[str, Any]
GUIDE = GUIDES / "argo-cd.md"


@cache
def objects() -> tuple[Json, ...]:
    found = [
        one for block in blocks(GUIDE) if block.language == "yaml" for one in yaml.safe_load_all(block.text)
    ]
    assert [one["kind"] for one in found] == ["AppProject", "ApplicationSet", "Application"]
    return tuple(found)


def specs() -> list[Json]:
    """Of the Applications that there will be: the template's and the platform's."""
    _, every, platform = objects()
    return [every["spec"]["template"]["spec"], platform["spec"]]


def test_its_objects_are_valid() -> None:
    need_crds()
    for one in objects():
        assert errors(one, "1.36") == []


def test_it_names_the_fields_that_controllers_own() -> None:
    team, _ = specs()
    assert team["ignoreDifferences"] == ignore_differences()
    for spec in specs():
        assert spec["syncPolicy"]["syncOptions"] == [*SYNC_OPTIONS]
        assert "PruneLast=true" not in spec["syncPolicy"]["syncOptions"]


def test_the_platform_has_nothing_that_controllers_own() -> None:
    """But the detector, which nobody scales: its Application needs no entries."""
    kinds = {one.kind for one in OWNED} - {"Deployment", "Service"}
    files = [path.name.partition("-")[0] for path in (ROOT / "generated/prod/_platform").rglob("*.yaml")]
    assert len(files) > 10
    assert not {kind.lower() for kind in kinds} & {*files}


@pytest.mark.parametrize("team", ["search", "recommendation"])
def test_every_file_is_brought_once(team: str) -> None:
    _, every, platform = objects()
    (generator,) = every["spec"]["generators"]
    patterns = [one["path"].replace("search", team) for one in generator["git"]["directories"]]
    taken: Counter[str] = Counter()
    for path in (ROOT / "generated/prod").rglob("*.yaml"):
        name, folder = path.relative_to(ROOT).as_posix(), path.parent.relative_to(ROOT).as_posix()
        taken[name] += sum(
            fnmatch.fnmatch(folder, one) and folder.count("/") == one.count("/") for one in patterns
        )
        taken[name] += name.startswith(platform["spec"]["source"]["path"] + "/")
    mine = {name: count for name, count in taken.items() if f"/{team}/" in name or "/_platform/" in name}
    assert len(mine) > 20
    assert {*mine.values()} == {1}


def test_an_application_has_one_model() -> None:
    """What a canary holds is its own sync operation, and no other."""
    _, every, _ = objects()
    assert every["spec"]["template"]["metadata"]["name"] == "prod-search-{{.path.basenameNormalized}}"
    for folder in (ROOT / "generated/prod/search").iterdir():
        assert len([*folder.glob("rollout-*.yaml"), *folder.glob("deployment-*.yaml")]) <= 1, folder


def test_the_detector_asks_for_these_applications() -> None:
    """The shop's environment, and the guide to the detector, name them as the ApplicationSet does."""
    _, every, _ = objects()
    name = every["spec"]["template"]["metadata"]["name"]
    asked = name.replace("search", "{team}").replace("{{.path.basenameNormalized}}", "{model}")
    prod = yaml.safe_load((ROOT / "specs/environments/prod.yaml").read_text())
    assert prod["spec"]["detector"]["argocd"]["application"] == asked
    assert f'application: "{asked}"' in (GUIDES / "detector.md").read_text("utf-8")


def test_its_project_is_not_taken_from_a_folder() -> None:
    project, every, _ = objects()
    assert every["spec"]["template"]["spec"]["project"] == project["metadata"]["name"]
    assert "{{" not in project["metadata"]["name"]
