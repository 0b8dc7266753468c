"""Tools that some tests need: a missing one skips the test, and fails it where ``CI`` is set."""

from __future__ import annotations

import os
import shutil
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """A developer may lack a tool, and is told; CI may not, or tests would vanish unseen."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)


def require_tool(name: str, package: str) -> str:
    """Path of a command, which Debian's ``package`` brings."""
    path = shutil.which(name)
    if path is None:
        missing(f"{name} is not installed (Debian: apt-get install {package})")
    return path
