"""Whatever a body holds, decoding it takes a small multiple of its size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.runtime.rest.hostile_bodies import PLACES

_ROOT = Path(__file__).resolve().parents[3]
TIMES = 5.25
"""Beside the body itself: a digit and a comma become a number of 64 bits, so that the tensor is four times."""
ANYWAY = 8 * 2**20
"""A body of up to 128 KiB is parsed whole; of short texts there are at most 131,072."""


@pytest.mark.parametrize("place", PLACES)
def test_no_body_takes_much_more_memory_than_its_size(place: str) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.runtime.rest.hostile_bodies", place],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    grown = json.loads(run.stdout)
    assert len(grown) > 40
    too_much = {name: f"{took >> 20} MiB" for name, size, took in grown if took > ANYWAY + TIMES * size}
    assert not too_much
