"""Whose fault an engine's error is: the request's (400), or the model's and the server's (500).

A caller who is at fault must not trip the breaker for everybody else, nor count against a new version.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from modelway_runtime.serving.errors import InferenceError, invalid
from modelway_runtime.settings import TensorSpec

_LONGEST = 200
"""Characters of an engine's text that a caller is shown."""


def of_request(text: str) -> InferenceError:
    """The error of a request. Text that names files of the engine is left out."""
    shown = text.strip() if text.isascii() and text.isprintable() and "/" not in text else ""
    detail = f": {shown}" if 0 < len(shown) <= _LONGEST else ""
    return invalid(f"the model cannot compute these inputs{detail}")


def says(error: Exception, *phrases: Sequence[str]) -> bool:
    """Whether an engine's text holds one of these phrases."""
    text = str(error)
    return any(phrase in text for listed in phrases for phrase in listed)


def may_disagree(inputs: Mapping[str, TensorSpec]) -> bool:
    """Whether a request decides sizes that must fit to each other, or to the weights.

    Where it decides the number of rows alone, a complaint about sizes is the model's own fault.
    """
    lengths = sum(spec.shape[:1] == (-1,) for spec in inputs.values())
    return lengths > 1 or any(-1 in spec.shape[1:] for spec in inputs.values())
