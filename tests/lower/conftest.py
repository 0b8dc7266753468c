"""Tests that take a ``cluster`` run on each of them."""

from __future__ import annotations

import pytest

from tests.lower.clusters import clusters


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cluster" in metafunc.fixturenames:
        metafunc.parametrize("cluster", clusters(), ids=[one.name for one in clusters()])
