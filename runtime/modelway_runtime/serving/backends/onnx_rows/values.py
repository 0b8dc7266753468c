"""What is known of a tensor while rows are followed through a graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

import msgspec

from modelway_runtime.serving.backends.onnx_rows.graph import Constant, Node

ROWS: Literal["rows"] = "rows"
Size: TypeAlias = int | Literal["rows"] | None
"""A dimension, or an element of a shape: a number, the number of rows, or not known (but not of the rows)."""
Sizes: TypeAlias = tuple[Size, ...]


class Doubt(Exception):
    """Why rows may influence each other; the text goes on from the operator's name."""


class Value(msgspec.Struct, frozen=True):
    """A tensor.

    ``rows`` is the dimension of rows; None: the tensor is the same whatever the rows hold. ``shape`` is None
    where even the number of dimensions is not known. ``elements`` are those of a small tensor of whole
    numbers, where they are known.
    """

    shape: Sizes | None
    rows: int | None = None
    elements: Sizes | None = None

    @property
    def counts(self) -> bool:
        """Whether it tells how many rows there are."""
        return self.elements is not None and ROWS in self.elements

    @property
    def sizes(self) -> Sizes:
        """The shape. Raises Doubt where it is not known."""
        if self.shape is None:
            raise Doubt("takes a constant whose shape is not known")
        return self.shape

    @property
    def rank(self) -> int:
        return len(self.sizes)


UNKNOWN = Value(None)
"""A tensor that is the same for all rows, and of which nothing else is known."""


class Use(msgspec.Struct, frozen=True):
    """A node with what is known of its inputs.

    ``fixed_sizes``: the graph's inputs have no dimension that a request decides but the rows.
    """

    node: Node
    inputs: tuple[Value | None, ...]
    opset: int
    fixed_sizes: bool

    def optional(self, index: int) -> Value | None:
        return self.inputs[index] if index < len(self.inputs) else None

    def value(self, index: int) -> Value:
        value = self.optional(index)
        if value is None:
            raise Doubt("lacks an input")
        return value

    def data(self, index: int = 0) -> Value:
        """An input that is computed with. Raises Doubt for a number of rows: answers would depend on it."""
        value = self.value(index)
        if value.counts:
            raise Doubt("computes with the number of rows")
        return value

    def carrier(self, index: int = 0) -> tuple[Value, int]:
        """An input that has rows, and which dimension they are."""
        value = self.data(index)
        if value.rows is None:
            raise Doubt("takes its rows from a parameter")
        return value, value.rows

    def need_constants(self, *but: int) -> None:
        """Raises Doubt unless every input but those named is the same for all rows."""
        for index, value in enumerate(self.inputs):
            if value is not None and index not in but and (value.rows is not None or value.counts):
                raise Doubt("has a parameter that depends on the rows")

    def numbers(self, name: str, index: int) -> tuple[int, ...] | None:
        """An attribute that later versions of the operator take as an input; None where it is left out."""
        listed = self.node.integers(name)
        if listed is not None:
            return listed
        value = self.optional(index)
        if value is None:
            return None
        numbers = tuple(element for element in value.elements or () if isinstance(element, int))
        if value.rows is not None or value.elements is None or len(numbers) < len(value.elements):
            raise Doubt(f"computes its {name}")
        return numbers


Rule: TypeAlias = Callable[[Use], Sequence[Value]]
"""What an operator gives. Raises Doubt where it may mix rows."""


def value_of(constant: Constant) -> Value:
    return Value(constant.shape, None, constant.numbers if len(constant.shape) < 2 else None)


def position(axis: int, rank: int) -> int:
    """A dimension that may be counted from the last."""
    index = axis + rank if axis < 0 else axis
    if not 0 <= index < rank:
        raise Doubt("names a dimension that is not there")
    return index


def broadcast(values: Sequence[Value]) -> Value:
    """Tensors of which at least one has rows, element by element: dimensions meet from the last.

    Rows may meet rows of other tensors, or a size of 1.
    """
    rank = max(value.rank for value in values)
    places = {value.rows - value.rank for value in values if value.rows is not None}
    if len(places) != 1:
        raise Doubt("pairs the rows with another dimension")
    (place,) = places
    for value in values:
        if value.rows is None and value.rank >= -place and value.sizes[place] != 1:
            raise Doubt("pairs the rows with a constant of several")
    shape = widest(values, rank)
    return Value((*shape[: rank + place], ROWS, *shape[rank + place + 1 :]), rank + place)


def widest(values: Sequence[Value], rank: int, last: int = 0) -> Sizes:
    """The dimensions of tensors that meet from the last, without so many of the last."""
    return tuple(
        _wider([value.sizes[-i] for value in values if value.rank >= i]) for i in range(rank, last, -1)
    )


def _wider(sizes: list[Size]) -> Size:
    other = [size for size in sizes if size != 1]
    if not other:
        return 1
    return next((size for size in other if isinstance(size, int)), None)
