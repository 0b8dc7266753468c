"""The check run on the commit and the label of the pull request."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.runtime.detection.publish.publish_helpers import changed, later, run, settings, verdict
from tests.support.github import Fault, GitHub

NAME = "modelway/verdict/prod/search/ranker"


@pytest.mark.parametrize(
    ("state", "status", "conclusion"),
    [
        ("regressed", "completed", "failure"),
        ("improved", "completed", "success"),
        ("unchanged", "completed", "success"),
        ("inconclusive", "completed", "neutral"),
        ("pending", "in_progress", None),
    ],
)
def test_the_check_run_says_the_conclusion(
    github: GitHub, tmp_path: Path, state: str, status: str, conclusion: str | None
) -> None:
    sha, number = changed(github)
    run(settings(github, tmp_path), verdict(sha, number, state=state))
    (check,) = github.checks(sha)
    assert (check["name"], check["status"], check["conclusion"]) == (NAME, status, conclusion)
    assert check["output"]["title"] == f"ranker {state} in prod"


def test_the_check_run_goes_on_from_pending(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    given = settings(github, tmp_path)
    run(given, verdict(sha, number, state="pending"))
    done = run(given, verdict(sha, number, **later(30)))
    again = run(given, verdict(sha, number, **later(30)))
    assert (done.check, again.check) == ("updated", "unchanged")
    (check,) = github.checks(sha)
    assert (check["status"], check["conclusion"]) == ("completed", "failure")


def test_an_older_verdict_leaves_the_check_run(github: GitHub, tmp_path: Path) -> None:
    """Of a commit without a pull request, where no comment tells which verdict is the later."""
    sha, _ = changed(github)
    given = settings(github, tmp_path)
    run(given, verdict(sha, None, **later(30)))
    assert run(given, verdict(sha, None, state="unchanged")).check == "older"
    assert github.checks(sha)[0]["conclusion"] == "failure"


def test_a_check_run_that_is_refused_is_a_problem_and_no_failure(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    refusal = b'{"message": "You must authenticate via a GitHub App."}'
    github.faults.append(Fault("POST .*/check-runs", status=403, body=refusal))
    done = run(settings(github, tmp_path), verdict(sha, number))
    assert (done.comment, done.check, done.label) == ("created", "none", "modelway:regressed")
    assert "You must authenticate via a GitHub App" in done.problems[0]


def test_labels_are_exchanged_and_others_stay(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    given = settings(github, tmp_path)
    github.ask("POST", f"issues/{number}/labels", {"labels": ["bug", "modelway:plan"]})
    run(given, verdict(sha, number, state="pending"))
    assert github.labels(number) == {"bug", "modelway:plan", "modelway:pending"}
    run(given, verdict(sha, number, state="regressed", **later(5)))
    assert github.labels(number) == {"bug", "modelway:plan", "modelway:regressed"}


def test_the_label_is_of_the_weightiest_verdict(github: GitHub, tmp_path: Path) -> None:
    sha, number = changed(github)
    given = settings(github, tmp_path)
    run(given, verdict(sha, number, state="regressed"))
    run(given, verdict(sha, number, state="unchanged", model="encoder"))
    assert github.labels(number) == {"modelway:regressed"}
    run(given, verdict(sha, number, state="improved", **later(5)))
    assert github.labels(number) == {"modelway:improved"}
