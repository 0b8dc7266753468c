"""A branch's name is no proof: what others put on our branches, and in their pull requests, is not ours."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from modelway_runtime.detection.follow_up import FollowUp
from tests.runtime.detection.publish.publish_helpers import changed, later, live, run, settings, verdict
from tests.runtime.detection.publish.test_follow_up import REVERT, changed_spec, shop
from tests.support.github import GitHub

HARM = {"specs/search/ranker.yaml": "version: 666\n"}


def put(github: GitHub, branch: str, files: dict[str, str | None], token: str = "", tree: str = "") -> str:
    """A commit of the token's owner on a branch, which is made or moved."""
    parent = github.head()
    if not tree:
        entries = [
            {"path": path, "mode": "100644", "type": "blob", "content": text} for path, text in files.items()
        ]
        base = github.ask("GET", f"git/commits/{parent}")["tree"]["sha"]
        tree = github.ask("POST", "git/trees", {"base_tree": base, "tree": entries})["sha"]
    commit: dict[str, Any] = {"message": "helpful", "tree": tree, "parents": [parent]}
    sha = str(github.ask("POST", "git/commits", commit, token or github.other_token)["sha"])
    if branch in {each["name"] for each in github.ask("GET", "branches?per_page=100")}:
        github.ask("PATCH", f"git/refs/heads/{branch}", {"sha": sha, "force": True})
    else:
        github.ask("POST", "git/refs", {"ref": f"refs/heads/{branch}", "sha": sha})
    return sha


def open_as_other(github: GitHub, branch: str) -> int:
    asked = {"title": "Revert", "head": branch, "base": "main"}
    return int(github.ask("POST", "pulls", asked, github.other_token)["number"])


def respond(github: GitHub, folder: Path, kind: str, sha: str, number: int, **fields: Any) -> FollowUp:
    (done,) = run(settings(github, folder), verdict(sha, number, **fields), kind).follow_ups
    return done


@pytest.fixture(params=["rollback", "failover"])
def response(request: pytest.FixtureRequest, github: GitHub, tmp_path: Path) -> tuple[str, str, int, str]:
    """(response, commit, pull request, name of the branch) of a regression."""
    if request.param == "rollback":
        sha, number = changed(github)
        return "rollback", sha, number, REVERT.format(sha[:7])
    shop(github, tmp_path / "shop")
    sha, number = changed_spec(github)
    return "failover", sha, number, f"modelway/failover-prod-ranker-{sha[:7]}"


def head_of(github: GitHub, number: int | None) -> dict[str, Any]:
    return dict(github.ask("GET", f"pulls/{number}")["head"])


@pytest.mark.parametrize("by", ["other", "detector"])
def test_what_others_put_on_the_branch_is_not_proposed(
    github: GitHub, tmp_path: Path, response: tuple[str, str, int, str], by: str
) -> None:
    """Also where the commit bears the detector's name, which whoever pushes may write."""
    kind, sha, number, branch = response
    put(github, branch, dict(HARM), github.token if by == "detector" else "")
    done = respond(github, tmp_path, kind, sha, number)
    assert (done.state, head_of(github, done.number)["ref"]) == ("opened", f"{branch}-2")
    assert github.files(f"{branch}-2").get("specs/search/ranker.yaml") != HARM["specs/search/ranker.yaml"]
    assert f"The branch `{branch}` holds what somebody else put there" in done.text
    again = respond(github, tmp_path, kind, sha, number, **later(5))
    assert (again.state, again.number) == ("open", done.number)


def test_a_pull_request_of_others_is_not_taken_for_ours(
    github: GitHub, tmp_path: Path, response: tuple[str, str, int, str]
) -> None:
    kind, sha, number, branch = response
    put(github, branch, dict(HARM))
    theirs = open_as_other(github, branch)
    done = respond(github, tmp_path, kind, sha, number)
    assert done.number != theirs
    assert done.state == "opened"
    assert f"#{theirs}" not in live(github, number)[0]


def test_the_same_tree_by_another_author_is_not_ours(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    branch = REVERT.format(sha[:7])
    respond(github, tmp_path, "rollback", sha, number)
    tree = github.ask("GET", f"git/commits/{github.head(branch)}")["tree"]["sha"]
    theirs = branch.replace("ranker", "reranker")
    put(github, theirs, {}, github.other_token, tree)
    done = respond(github, tmp_path, "rollback", sha, number, model="reranker")
    assert head_of(github, done.number)["ref"] == f"{theirs}-2"


def test_commits_that_others_add_later_are_named(
    github: GitHub, tmp_path: Path, response: tuple[str, str, int, str]
) -> None:
    kind, sha, number, branch = response
    first = respond(github, tmp_path, kind, sha, number)
    assert "review and merge it" in first.text
    put(github, branch, dict(HARM), github.token)
    again = respond(github, tmp_path, kind, sha, number, **later(5))
    assert (again.state, again.number) == ("open", first.number)
    assert "has other commits than ours by now: review them" in again.text
    assert "review and merge it" not in again.text


def test_all_names_that_are_taken_are_said(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    branch = REVERT.format(sha[:7])
    for suffix in ("", "-2", "-3"):
        put(github, branch + suffix, dict(HARM))
    done = respond(github, tmp_path, "rollback", sha, number)
    assert (done.state, done.number) == ("failed", None)
    assert f"`{branch}-3`" in done.text
    assert re.search("remove", done.text)
    assert len(github.pulls()) == 1
