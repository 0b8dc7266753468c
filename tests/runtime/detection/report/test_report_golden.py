"""What the comment and the terminal say; ``UPDATE_GOLDEN=1 pytest …`` writes it anew."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from modelway_runtime.detection.report import markdown, text
from tests.runtime.detection.report.examples import CASES

GOLDEN = Path(__file__).parent / "golden"
REVERT = "git revert -m 1 8c1d2e7f9ab045118c1d2e7f9ab045118c1d2e7f\nmodelway compile\n"


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("form", ["md", "txt"])
def test_golden(case: str, form: str) -> None:
    verdict, plots = CASES[case]()
    if form == "md":
        made = markdown.comment(verdict, plots, page_url="https://ci.example/7/report.html", revert=REVERT)
    else:
        made = text.report(verdict, plots, colour=False)
    file = GOLDEN / f"{case}.{form}"
    if os.environ.get("UPDATE_GOLDEN"):
        file.write_text(made, encoding="utf-8")
    assert made == file.read_text(encoding="utf-8")


def test_no_golden_file_is_left_over() -> None:
    assert {file.name for file in GOLDEN.iterdir()} == {
        f"{case}.{form}" for case in CASES for form in ("md", "txt")
    }
