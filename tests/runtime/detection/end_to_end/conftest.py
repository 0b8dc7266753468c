"""The servers, what they lived through, and GitHub, once for each test process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.detection.end_to_end.shop import (
    ENCODER_NEW,
    RANKER_NEW,
    RANKER_OLD,
    Clock,
    Pulls,
    Shop,
    past,
    pull_requests,
    this_minute,
)
from tests.support.github import Emulator, GitHub, emulator, package
from tests.support.prometheus import prometheus, require
from tests.support.rollout_world import Lived, Pod, live, pods, scrape
from tests.support.serving import Server as ModelServer
from tests.support.serving import slow


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Pod, ModelServer]]:
    """Real servers; the new version of the ranker computes twice as much."""
    require()
    once, twice = slow(0.008), slow(0.016)
    folder = tmp_path_factory.mktemp("models")
    with pods(folder, {RANKER_OLD: once, RANKER_NEW: twice, ENCODER_NEW: once}) as running:
        yield running


@pytest.fixture(scope="session")
def lived(servers: dict[Pod, ModelServer], tmp_path_factory: pytest.TempPathFactory) -> dict[Pod, Lived]:
    return live(tmp_path_factory.mktemp("lived") / "prometheus", servers)


@pytest.fixture(scope="session")
def shop(
    lived: dict[Pod, Lived], servers: dict[Pod, ModelServer], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    """Ten days up to now; from now on the new pods are scraped."""
    times = this_minute()
    text = past(lived, times, until=times.now)
    new = {pod: servers[pod] for pod in (RANKER_NEW, ENCODER_NEW)}
    with prometheus(
        tmp_path_factory.mktemp("shop") / "prometheus", openmetrics=text, scrape=scrape(new)
    ) as server:
        yield Shop(server, times, lived, text)


@pytest.fixture(scope="session")
def clocked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Emulator, Clock]]:
    """An emulator whose clock can be turned."""
    package()
    folder = tmp_path_factory.mktemp("emulator")
    clock = Clock(folder / "clock")
    clock.turn_to(None)
    script = Path(__file__).with_name("clock.js")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NODE_OPTIONS", f'--require "{script}"')
        patch.setenv("MODELWAY_CLOCK_FILE", str(clock.file))
        started = emulator(folder)
        running = started.__enter__()
    try:
        yield running, clock
    finally:
        started.__exit__(None, None, None)


@pytest.fixture
def github(clocked: tuple[Emulator, Clock]) -> Iterator[GitHub]:
    with clocked[0].repository() as repository:
        yield repository


@pytest.fixture
def pulls(github: GitHub, clocked: tuple[Emulator, Clock], shop: Shop) -> Pulls:
    return pull_requests(github, clocked[1], shop.times)
