"""``python -m modelway_runtime``."""

from modelway_runtime.cli import run

run()
