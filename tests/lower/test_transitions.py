"""A count that changes hands between two compiles is never lowered, and the safe order is said."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from modelway import workspace
from modelway.workspace import Outcome
from tests.lower.test_traps_of_specs import ALL, environment, model, resource
from tests.support import argocd
from tests.support.spec_text import Text, dump

Json = dict[str, Any]
FORMS = {
    "deployment": ("rolling", "keda"),
    "rollout": ("canary", "keda"),
    "deployment by adapter": ("rolling", "metricsAdapter"),
}
CANARY = {"strategy": "canary", "steps": [{"weight": 50}]}


class Shop:
    """A repository whose ranker changes, and the tree that each compile leaves."""

    def __init__(self, root: Path, form: str) -> None:
        self.root = root
        strategy, scaler = FORMS[form]
        self._place = environment(*ALL, scaler)
        self._rollout = CANARY if strategy == "canary" else {"strategy": "rolling"}
        self.file = root / f"generated/prod/search/ranker/{form.split()[0]}-ranker.yaml"
        (root / "specs").mkdir()
        (root / "modelway.yaml").write_text('requires: "0.1"\n')

    def compile(self, *, strict: bool = False, **scaling: int) -> Outcome:
        ranker = model(serving={"scaling": scaling}, rollout=self._rollout)
        specs = (self._place, resource(), ranker)
        text = "---\n".join(dump(Text("specs.yaml", one).value) for one in specs)
        (self.root / "specs/specs.yaml").write_text(text)
        with contextlib.chdir(self.root):
            return workspace.compile_and_write(None, None, (), strict=strict, progress=None)

    def check(self) -> Outcome:
        with contextlib.chdir(self.root):
            return workspace.compile_and_compare(None, None, (), strict=True, progress=None)

    @property
    def count(self) -> int:
        return int(yaml.safe_load(self.file.read_bytes())["spec"]["replicas"])


def codes(outcome: Outcome) -> list[str]:
    return [one.code for one in outcome.diagnostics if one.code == "MW413"]


@pytest.fixture(params=FORMS)
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Shop:
    return Shop(tmp_path, request.param)


def test_a_first_install_begins_with_the_least(shop: Shop) -> None:
    assert shop.compile(minReplicas=3, maxReplicas=8).code == workspace.OK
    assert shop.count == 3


def test_a_scaler_that_comes_takes_no_pod_away(shop: Shop) -> None:
    shop.compile(minReplicas=4)
    outcome = shop.compile(minReplicas=4, maxReplicas=8)
    assert (shop.count, codes(outcome)) == (4, [])


@pytest.mark.parametrize("least", [1, 2, 3])
def test_a_lower_least_in_the_same_commit_waits_for_the_scaler(shop: Shop, least: int) -> None:
    shop.compile(minReplicas=4)
    outcome = shop.compile(minReplicas=least, maxReplicas=8)
    assert (shop.count, codes(outcome)) == (4, ["MW413"])
    assert shop.check().code == workspace.OK, "a second compile changes nothing, and says nothing"
    assert shop.compile(minReplicas=least, maxReplicas=8).counts["changed"] == 0


def test_the_order_that_the_hint_names_is_silent(shop: Shop) -> None:
    shop.compile(minReplicas=4)
    outcome = shop.compile(minReplicas=1, maxReplicas=8, strict=True)
    assert outcome.code == workspace.FOUND
    (hint,) = (one.hint for one in outcome.diagnostics if one.code == "MW413")
    assert "maxReplicas beside minReplicas: 4" in hint
    for least in (4, 1):
        outcome = shop.compile(minReplicas=least, maxReplicas=8, strict=True)
        assert (outcome.code, codes(outcome)) == (workspace.OK, [])


@pytest.mark.parametrize("server_side", [False, True], ids=["client-side", "server-side"])
@pytest.mark.parametrize("least", [1, 2, 4])
def test_no_apply_takes_a_pod_away(shop: Shop, least: int, *, server_side: bool) -> None:
    """The cluster's count after each tree is applied, before the scaler has looked at anything."""

    def tree() -> Json:
        return dict(yaml.safe_load(shop.file.read_bytes()))

    shop.compile(minReplicas=4)
    before = tree()
    live = argocd.apply(None, before, None, server_side=server_side)
    shop.compile(minReplicas=least, maxReplicas=8)
    after = argocd.apply(live, tree(), before, server_side=server_side)
    assert after["spec"]["replicas"] == 4
    without = tree()
    del without["spec"]["replicas"]
    fallen = argocd.apply(live, without, before, server_side=server_side)
    assert fallen["spec"].get("replicas", 1) == 1, "the model can fail: a line that goes is one pod"


def test_under_a_scaler_the_line_only_rises(shop: Shop) -> None:
    counts = []
    for least in (2, 5, 3, 6, 1):
        shop.compile(minReplicas=least, maxReplicas=8)
        counts.append(shop.count)
    assert counts == [2, 5, 5, 6, 6]


def test_the_line_never_exceeds_the_most(shop: Shop) -> None:
    shop.compile(minReplicas=6)
    shop.compile(minReplicas=1, maxReplicas=4)
    assert shop.count == 4


def test_without_a_scaler_the_count_is_that_of_the_spec(shop: Shop) -> None:
    shop.compile(minReplicas=4)
    assert codes(shop.compile(minReplicas=2)) == []
    assert shop.count == 2


def test_a_scaler_that_goes_is_said(shop: Shop) -> None:
    shop.compile(minReplicas=2, maxReplicas=8)
    outcome = shop.compile(minReplicas=2, strict=True)
    assert (outcome.code, codes(outcome)) == (workspace.FOUND, ["MW413"])
    (hint,) = (one.hint for one in outcome.diagnostics if one.code == "MW413")
    assert "minReplicas: 8" in hint
    assert codes(shop.compile(minReplicas=8, strict=True)) == []
    assert codes(shop.compile(minReplicas=2, strict=True)) == []
    assert shop.count == 2


@pytest.mark.parametrize("what", ["folder", "link", "pipe", "garbage"])
def test_what_stands_there_and_is_no_file_of_ours_counts_for_nothing(tmp_path: Path, what: str) -> None:
    """The compile refuses or replaces it as ever; to look at it does no harm."""
    shop = Shop(tmp_path, "deployment")
    shop.file.parent.mkdir(parents=True)
    if what == "folder":
        shop.file.mkdir()
    elif what == "link":
        (tmp_path / "elsewhere.yaml").write_text("  replicas: 7\n")
        shop.file.symlink_to(tmp_path / "elsewhere.yaml")
    elif what == "pipe":
        os.mkfifo(shop.file)
    else:
        shop.file.write_bytes(b"\xff\x00 replicas: 7\n  replicas: 12345678901234567890\n")
    outcome = shop.compile(minReplicas=2, maxReplicas=8)
    assert {one.code for one in outcome.diagnostics} == {"MW501"}
