"""Two servers for all tests of a worker: one of a folder of models, one of settings with narrow limits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support import serving
from tests.support.serving import Server

REQUEST_BYTES, IN_FLIGHT, QUEUE_ROWS = 100_000, 6, 2


@pytest.fixture(scope="session")
def slow_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving.write_model(tmp_path_factory.mktemp("slow"), "slow", serving.slow())


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of one model of each kind; ``both`` has two versions."""
    folder = tmp_path_factory.mktemp("models")
    for datatype in serving.ELEMENTS:
        serving.write_model(folder, f"identity-{datatype.lower()}", serving.identity(datatype))
    serving.write_model(folder, "scalar", serving.identity("FP64", ()))
    serving.write_model(folder, "mlp", serving.mlp())
    serving.write_model(folder, "both", serving.mlp(1), version="1")
    serving.write_model(folder, "both", serving.mlp(2), version="2", versions="all")
    serving.write_model(folder, "leaving", serving.mlp())
    serving.write_model(folder, "row-sums", serving.row_sums())
    serving.write_model(folder, "without-rows", serving.without_rows())
    serving.write_model(folder, "two-of-two", serving.two_of_two())
    serving.write_model(folder, "picky", serving.picky())
    serving.write_model(folder, "greedy", serving.greedy())
    return folder


@pytest.fixture(scope="session")
def server(models: Path) -> Iterator[Server]:
    with serving.serving_folder(models) as running:
        yield running


@pytest.fixture(scope="session")
def limited(models: Path, slow_model: Path) -> Iterator[Server]:
    """``slow`` computes one row at a time and lets two wait; ``patient`` lets many wait."""
    one = {"max_rows": 1, "max_delay_ms": 0, "preferred_rows": []}
    served = [
        serving.served("mlp", models / "mlp/1/model.onnx"),
        serving.served("wide", models / "identity-uint8/1/model.onnx"),
        serving.served(
            "slow",
            slow_model,
            rows="first",
            batching=one,
            queue={"max_rows": QUEUE_ROWS, "timeout_ms": 20_000},
        ),
        serving.served("patient", slow_model, batching=one),
    ]
    limits = {"request_bytes": REQUEST_BYTES, "in_flight": IN_FLIGHT}
    with serving.serving_settings(serving.settings_of(served, limits=limits)) as running:
        yield running
