"""One emulator for each test process, one repository for each test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.github import Emulator, GitHub, emulator


@pytest.fixture(scope="session")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with emulator(tmp_path_factory.mktemp("emulator")) as started:
        yield started


@pytest.fixture
def github(running: Emulator) -> Iterator[GitHub]:
    with running.repository() as repository:
        yield repository
