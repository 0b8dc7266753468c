"""Whatever a message holds, decoding it takes a small multiple of its size."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[3]
TIMES = 3
"""Beside the message itself: protobuf's copy, the tensor's, and one on the way."""
ANYWAY = 24 * 2**20
"""Whole numbers and texts in `contents` take more; there are at most 1,048,576 and 131,072 of them."""


def test_no_message_takes_much_more_memory_than_its_size() -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.runtime.grpc.hostile_messages"],
        cwd=_ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    grown = json.loads(run.stdout)
    assert len(grown) > 80
    too_much = {name: f"{took >> 20} MiB" for name, size, took in grown if took > ANYWAY + TIMES * size}
    assert not too_much
