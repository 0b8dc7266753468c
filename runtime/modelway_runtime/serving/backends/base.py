"""What the server needs of a loaded model."""

from __future__ import annotations

from typing import Protocol

from modelway_runtime.serving.values import Arrays
from modelway_runtime.settings import TensorSpec


class LoadError(Exception):
    """Weights that cannot be served; the text says what to do. Never shown to a caller."""


class Model(Protocol):
    """Weights in memory. ``run`` may be called by several threads at once."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    provider: str
    """What computes, as ``model_info`` names it: ``cpu``, ``cuda``, …"""
    on_gpu: bool

    def run(self, inputs: Arrays, wanted: tuple[str, ...]) -> Arrays:
        """The wanted outputs by name; raises any exception of the engine."""
        ...

    def close(self) -> None:
        """Give the memory back; nothing is run afterwards."""
        ...
