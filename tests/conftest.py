"""What holds for every test: one that checks nothing fails, and CI skips for a written reason only.

A test has checked something when an ``assert`` of a module below ``tests`` or one of numpy's has passed in
it, or a ``pytest.raises`` was left. Loops over what may be empty use ``every`` of ``tests/support/checking.py``.

Property tests draw the same examples everywhere, so that a change is judged by what it changes.
``HYPOTHESIS_PROFILE=random`` draws others each time and remembers those that failed: for a schedule, and for
whoever looks for faults (`make search`).

The engine is told that it may tell nobody, before any test can import it.
"""

from __future__ import annotations

import functools
import importlib
import os
import re
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import pytest
from _pytest.assertion import util
from hypothesis import HealthCheck, settings

import modelway_runtime  # noqa: F401  # its entry says so to this process and all that it starts

_HERE = f"{Path(__file__).parent}{os.sep}"
_FOLDERS = [path.name for path in Path(__file__).parent.iterdir() if path.is_dir()]
pytest.register_assert_rewrite(*(f"tests.{name}" for name in _FOLDERS))  # what helpers assert is checked, too

# How long an example takes on a busy machine is no property.
timeless = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow]}
settings.register_profile("fixed", derandomize=True, database=None, **timeless)
settings.register_profile("random", derandomize=False, print_blob=True, **timeless)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "fixed"))

# Why a test may be skipped where CI is set. A missing tool is no reason: .ci/run installs it.
SKIPS_OF_CI = re.compile(
    "no GPU is here"
    "|a GPU is here"
    "|(FP16|BF16) has no form in JSON"
    "|no conformance.py: "  # of the serving benchmarks, which are no part of this repository
    "|no /dev/full here"
    "|a small disk can be mounted by root only"
    "|nothing binds root here"
)
_checks = 0  # of this process, so far
_calling = False  # a test itself runs, not its fixtures


def pytest_assertion_pass(item: pytest.Item, lineno: int, orig: str, expl: str) -> None:
    """One is enough: pytest explains each assert that passes, which would take a fifth of the time."""
    global _checks
    if _calling and _is_ours(sys._getframe(1)):
        _checks += 1
        util._assertion_pass = None  # until the next test; without it, all would only be slower


def _is_ours(frame: FrameType | None) -> bool:
    """Whether the assert is one of these tests': pytest rewrites those of its plugins, hypothesis among them."""
    while frame is not None and f"{os.sep}_pytest{os.sep}" in frame.f_code.co_filename.replace(
        "pluggy", "_pytest"
    ):
        frame = frame.f_back
    return frame is not None and frame.f_code.co_filename.startswith(_HERE)


def _count_raises(config: pytest.Config) -> None:
    leave = pytest.RaisesExc.__exit__

    def counted(
        self: pytest.RaisesExc[BaseException],
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        global _checks
        passed = leave(self, kind, error, traceback)
        _checks += passed
        return passed

    pytest.RaisesExc.__exit__ = counted  # type: ignore[method-assign]
    config.add_cleanup(lambda: setattr(pytest.RaisesExc, "__exit__", leave))


def _counted(check: Callable[..., object]) -> Callable[..., object]:
    @functools.wraps(check)
    def counted(*args: object, **kwargs: object) -> object:
        global _checks
        result = check(*args, **kwargs)
        _checks += 1
        return result

    return counted


def pytest_collection_finish(session: pytest.Session) -> None:
    """What numpy asserts is checked, too, where a test has imported numpy, which loads its asserts late."""
    if "numpy" not in sys.modules:
        return
    testing = importlib.import_module("numpy.testing")
    for name in dir(testing):
        if name.startswith("assert_"):
            setattr(testing, name, _counted(getattr(testing, name)))


def pytest_configure(config: pytest.Config) -> None:
    _count_raises(config)
    if not hasattr(config, "workerinput"):
        _forget_uncounted_bytecode()


def _forget_uncounted_bytecode() -> None:
    """pytest keeps modules whose asserts it has rewritten, and does not see that the option for it has changed."""
    for path in Path(__file__).parent.rglob("__pycache__/*-pytest-*.pyc"):
        code = path.read_bytes()
        if b"AssertionError" in code and b"_check_if_assertion_pass_impl" not in code:
            path.unlink(missing_ok=True)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, Any, Any]:
    global _calling
    before, _calling = _checks, True
    try:
        result = yield
    finally:
        _calling = False
    if _checks == before:
        pytest.fail("the test has passed without a check: see tests/support/checking.py", pytrace=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    return _judge_skip((yield))


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    return _judge_skip((yield))


def _judge_skip(report: Any) -> Any:
    if report.skipped and os.environ.get("CI") and not hasattr(report, "wasxfail"):
        _, _, reason = report.longrepr
        if not SKIPS_OF_CI.match(reason.removeprefix("Skipped: ")):
            report.outcome = "failed"
            report.longrepr = f"{reason}: no reason to skip where CI is set (tests/conftest.py)"
    return report
