"""promtool (Debian's is 2.42): checks rule files, runs rule tests."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from tests.support.tools import require_tool

_PROCESSES = 2


def require() -> str:
    """Path of promtool. Where there is none the test is skipped with the reason; with ``CI`` set it fails."""
    return require_tool("promtool", "prometheus")


def check_rules(groups: list[dict[str, Any]], folder: Path) -> None:
    """Prometheus takes the groups, and no rule is in them twice."""
    path = folder / "rules.yml"
    path.write_text(json.dumps({"groups": groups}))  # JSON is YAML
    done = _run("check", "rules", "--lint-fatal", str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def failed_tests(paths: Sequence[Path]) -> list[Path]:
    """Those of the rule tests that do not pass. promtool is slow to start and uses one core."""
    shares = [share for i in range(_PROCESSES) if (share := paths[i::_PROCESSES])]
    with ThreadPoolExecutor(_PROCESSES) as pool:
        return [path for failed in pool.map(_failed, shares) for path in failed]


def _failed(paths: Sequence[Path]) -> list[Path]:
    done = _run("test", "rules", *map(str, paths))
    passed = set(re.findall(r"^Unit Testing: +(.*)\n +SUCCESS$", done.stdout, re.MULTILINE))
    failed = [path for path in paths if str(path) not in passed]
    assert (done.returncode == 0) == (not failed), done.stdout + done.stderr
    return failed


def explain(path: Path) -> str:
    """What promtool says of one rule test."""
    done = _run("test", "rules", str(path))
    return done.stdout + done.stderr


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([require(), *arguments], capture_output=True, text=True, timeout=300, check=False)
