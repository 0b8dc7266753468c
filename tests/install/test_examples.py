"""CI draws no lots: property tests see the same examples each time, others when somebody asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
# Both what has settings of its own and what has none.
PROPERTIES = """
from hypothesis import given, settings, strategies as st

def note(value):
    with open(__file__ + ".drawn", "a") as file:
        print(value, file=file)

@given(st.integers())
def test_plain(value):
    note(value)
    assert True

@settings(max_examples=30, deadline=None)
@given(st.text())
def test_own_settings(value):
    note(ascii(value))
    assert True
"""


def drawn(folder: Path, profile: str | None) -> str:
    """What the properties see under the conftest of this repository."""
    folder.mkdir()
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text())
    (folder / "test_properties.py").write_text(PROPERTIES)
    environment = {
        name: text for name, text in os.environ.items() if name not in ("CI", "HYPOTHESIS_PROFILE")
    }
    environment |= {"HYPOTHESIS_PROFILE": profile} if profile else {}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"]
    command += ["-o", "enable_assertion_pass_hook=true"]  # as pyproject.toml has it
    done = subprocess.run([*command, "test_properties.py"], cwd=folder, env=environment, capture_output=True)
    assert done.returncode == 0, done.stdout.decode()
    return (folder / "test_properties.py.drawn").read_text()


def test_the_same_examples_each_time_unless_others_are_asked_for(tmp_path: Path) -> None:
    first, again = drawn(tmp_path / "a", None), drawn(tmp_path / "b", None)
    assert first.count("\n") > 100
    assert first == again
    assert drawn(tmp_path / "c", "random") != drawn(tmp_path / "d", "random")
