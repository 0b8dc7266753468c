"""One Prometheus with the past of a shop, and one GitHub, for each test process; made where they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.runtime.detection.service.shop_past import past
from tests.support.github import Emulator, GitHub, emulator
from tests.support.prometheus import Server, prometheus


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with prometheus(tmp_path_factory.mktemp("shop") / "prometheus", openmetrics=past()) as server:
        yield server


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with emulator(tmp_path_factory.mktemp("emulator")) as started:
        yield started


@pytest.fixture
def github(running: Emulator) -> Iterator[GitHub]:
    with running.repository() as repository:
        yield repository
