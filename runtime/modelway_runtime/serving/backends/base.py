"""What the server needs of a loaded model."""

from __future__ import annotations

from typing import Protocol

import msgspec

from modelway_runtime.serving.values import Arrays
from modelway_runtime.settings import TensorSpec


class LoadError(Exception):
    """Weights that cannot be served; the text says what to do. Never shown to a caller."""


class Reading(msgspec.Struct, frozen=True):
    """What weights say of how they compute.

    ``doubt``: why rows, the first dimension of every input, may influence each other; None: they cannot, as
    far as the operators tell. ``steady``: how long it computes is decided by the shapes of the inputs, not by
    what they hold. ``dimensions``: the name of each tensor's first dimension, where the file has one.
    """

    doubt: str | None
    steady: bool
    dimensions: dict[str, str] = {}


class Model(Protocol):
    """Weights in memory. ``run`` may be called by several threads at once."""

    inputs: dict[str, TensorSpec]
    outputs: dict[str, TensorSpec]
    provider: str
    """What computes, as ``model_info`` names it: ``cpu``, ``cuda``, …"""
    on_gpu: bool
    engine: str
    """Which release of which library computes."""
    reading: Reading

    def run(self, inputs: Arrays, wanted: tuple[str, ...]) -> Arrays:
        """The wanted outputs by name.

        Raises InferenceError (400) where the engine says that the inputs are at fault; else what it raises.
        """
        ...

    def close(self) -> None:
        """Give the memory back; nothing is run afterwards."""
        ...
