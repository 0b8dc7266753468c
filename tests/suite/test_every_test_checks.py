"""The guard in ``tests/conftest.py``: a test that checks nothing fails, and CI skips for a written reason only."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

CONFTEST = Path(__file__).parents[1] / "conftest.py"

TESTS = """
from hypothesis import given, strategies as st
import pytest
from tests.support.helper import holds

@pytest.fixture
def checked_by_its_fixture():
    assert 1

def test_asserts(): assert 1
def test_raises():
    with pytest.raises(ValueError): raise ValueError
def test_a_helper_asserts(): holds()
@given(st.integers())
def test_a_property_asserts(number): assert number == number
@pytest.mark.parametrize("items", [[1], [2, 3]])
def test_a_loop_over_something(items):
    for item in items: assert item
def test_a_thread_asserts():
    import threading
    thread = threading.Thread(target=holds)
    thread.start()
    thread.join()

def test_bad_nothing(): pass
def test_bad_fixture_alone(checked_by_its_fixture): pass
def test_bad_a_helper_is_silent(): holds(False)
@given(st.integers())
def test_bad_property(number): number + 1
@pytest.mark.parametrize("items", [[], {}, ()])
def test_bad_loop_over_nothing(items):
    for item in items: assert item
def test_bad_raises_never_reached():
    for item in []:
        with pytest.raises(ValueError): raise ValueError
def test_bad_returns_early():
    if True: return
    assert 1
"""
SKIPS = """
import pytest
def test_skip_bad(): pytest.skip("promtool is not installed")
@pytest.mark.skipif(True, reason="no reason")
def test_skip_bad_mark(): assert 1
def test_skip_written(): pytest.skip("FP16 has no form in JSON")
@pytest.mark.skipif(True, reason="no GPU is here")
def test_skip_written_mark(): assert 1
"""
HELPER = "def holds(checks=True):\n    if checks: assert 1\n"
MODULE_SKIP = "import pytest\npytest.importorskip('no_such_module')\ndef test_skip_whole(): assert 1\n"
INI = "[pytest]\nenable_assertion_pass_hook = true\npythonpath = .\n"


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """A small suite with the guard of this one."""
    (tmp_path / "tests/support").mkdir(parents=True)
    (tmp_path / "pytest.ini").write_text(INI)
    shutil.copy(CONFTEST, tmp_path / "tests/conftest.py")
    (tmp_path / "tests/support/helper.py").write_text(HELPER)
    return tmp_path


def outcomes(suite: Path, ci: str = "") -> dict[str, str]:
    """Test, or what failed to be collected -> PASSED, FAILED or ERROR."""
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-rA",
        "-p",
        "no:cacheprovider",
        "--import-mode=importlib",
        "tests",
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("CI", "PYTEST"))}
    done = subprocess.run(
        command,
        cwd=suite,
        env=environment | {"CI": ci},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = re.findall(r"^(PASSED|FAILED|SKIPPED|ERROR) (?:\S+::)?(\S+)", done.stdout, re.MULTILINE)
    assert said, done.stdout + done.stderr
    return {name: outcome for outcome, name in said}


def test_a_test_that_checks_nothing_fails(suite: Path) -> None:
    (suite / "tests/test_it.py").write_text(TESTS)
    for _ in range(2):  # the second time from bytecode that pytest has kept
        found = outcomes(suite)
        assert len(found) == 16
        assert {name for name, outcome in found.items() if outcome == "PASSED"} == {
            name for name in found if not name.startswith("test_bad")
        }
        assert set(found.values()) == {"PASSED", "FAILED"}


def test_bytecode_of_before_the_option_is_not_believed(suite: Path) -> None:
    (suite / "tests/test_it.py").write_text("def test_asserts(): assert 1\n")
    (suite / "pytest.ini").write_text(INI.replace("true", "false"))
    assert outcomes(suite) == {"test_asserts": "FAILED"}
    (suite / "pytest.ini").write_text(INI)
    assert outcomes(suite) == {"test_asserts": "PASSED"}


@pytest.mark.parametrize("ci", ["", "true"])
def test_ci_skips_for_a_written_reason_only(suite: Path, ci: str) -> None:
    (suite / "tests/test_it.py").write_text(SKIPS)
    found = outcomes(suite, ci)
    failed = {name for name, outcome in found.items() if outcome in ("FAILED", "ERROR")}
    assert failed == ({"test_skip_bad", "test_skip_bad_mark"} if ci else set())


def test_ci_skips_no_module(suite: Path) -> None:
    (suite / "tests/test_whole.py").write_text(MODULE_SKIP)
    (suite / "tests/test_it.py").write_text("def test_asserts(): assert 1\n")
    assert "ERROR" not in outcomes(suite).values()
    assert "ERROR" in outcomes(suite, "true").values()
