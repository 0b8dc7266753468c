"""Tests that take a ``cluster`` run on each of them, or on those that ``having`` names."""

from __future__ import annotations

import pytest

from tests.lower.clusters import clusters
from tests.support.checking import every


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "having(*add_ons): run on the clusters that have one of them")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "cluster" in metafunc.fixturenames:
        marker = metafunc.definition.get_closest_marker("having")
        chosen = [one for one in clusters() if marker is None or any(map(one.has, marker.args))]
        metafunc.parametrize("cluster", every(chosen), ids=[one.name for one in chosen])
