"""What the workflows try: the oldest and the newest Python, the newest of everything, other examples."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2]


def jobs(name: str) -> dict[str, Any]:
    text = (ROOT / ".github" / "workflows" / f"{name}.yaml").read_text()
    return dict(yaml.safe_load(text)["jobs"])


def runs(job: dict[str, Any]) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


def test_the_oldest_of_each_python_is_tried_and_required() -> None:
    tried = jobs("ci")["python"]["strategy"]["matrix"]["python"]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lowest = project["requires-python"].removeprefix(">=")
    minors = [int(version.split(".")[1]) for version in tried]
    assert tried[0] == f"{lowest}.0"
    assert minors == list(range(minors[0], minors[0] + len(minors)))
    assert all(version.endswith(".0") for version in tried[:-1])
    assert tried[-1].count(".") == 1, "the newest patch of the newest"
    assert "make oldest" in runs(jobs("ci")["python"])
    assert "make oldest" in (ROOT / ".ci" / "run").read_text(), "Debian's own"
    assert set(jobs("ci")["gate"]["needs"]) == set(jobs("ci")) - {"gate"}


def test_the_newest_of_everything_is_tried_on_a_schedule_and_may_fail() -> None:
    newest = jobs("scheduled")["newest"]
    assert newest["env"]["CONSTRAINTS"] == ""
    assert newest["continue-on-error"] is True
    assert ".ci/run" in runs(newest)
    (says,) = [step for step in newest["steps"] if step.get("if") == "failure()"]
    assert "::warning" in says["run"]


def test_other_examples_are_tried_on_a_schedule_only() -> None:
    assert "make search" in runs(jobs("scheduled")["search"])
    makefile = (ROOT / "Makefile").read_text()
    assert "HYPOTHESIS_PROFILE=random $(BIN)/pytest" in makefile
    for text in ((ROOT / ".ci" / "run").read_text(), (ROOT / ".github/workflows/ci.yaml").read_text()):
        assert "HYPOTHESIS_PROFILE" not in text
