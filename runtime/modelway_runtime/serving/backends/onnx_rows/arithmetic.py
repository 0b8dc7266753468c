"""Operators that work element by element, products of matrices, and arithmetic on shapes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

from modelway_runtime.serving.backends.onnx_rows.values import (
    ROWS,
    UNKNOWN,
    Doubt,
    Size,
    Use,
    Value,
    broadcast,
    position,
    widest,
)

_WHOLE = (6, 7)
"""INT32 and INT64 of onnx.proto: a cast to them keeps a number of rows what it is."""


def elementwise(use: Use) -> Sequence[Value]:
    values = [value for value in use.inputs if value is not None]
    if any(value.rows is not None for value in values):
        if any(value.counts for value in values):
            raise Doubt("computes with the number of rows")
        return [broadcast(values)]
    calculated = _calculated(use, values)
    if calculated is not None:
        return [calculated]
    if any(value.counts for value in values):
        raise Doubt("computes with the number of rows")
    if any(value.shape is None for value in values):
        return [UNKNOWN]
    return [Value(widest(values, max(value.rank for value in values)))]


def _calculated(use: Use, values: Sequence[Value]) -> Value | None:
    """Arithmetic on shapes; None where it is none, or where not every operand is known."""
    calculate = _ARITHMETIC.get(use.node.operator)
    if use.node.operator == "Cast" and use.node.integer("to", 0) not in _WHOLE:
        return None
    operands = [value.elements for value in values if value.elements]
    if calculate is None or len(operands) < len(values) or any(value.rank > 1 for value in values):
        return None
    count = max(map(len, operands))
    if any(len(operand) not in (1, count) for operand in operands):
        return None
    columns = [operand if len(operand) == count else operand * count for operand in operands]
    elements = tuple(calculate(*column) for column in zip(*columns, strict=True))
    return Value((count,) if max(value.rank for value in values) else (), None, elements)


def _on_numbers(function: Callable[[int, int], int]) -> Callable[[Size, Size], Size]:
    def calculate(one: Size, other: Size) -> Size:
        if isinstance(one, int) and isinstance(other, int):
            return function(one, other)
        if ROWS in (one, other):
            raise Doubt("computes with the number of rows")
        return None

    return calculate


def _product(one: Size, other: Size) -> Size:
    if ROWS in (one, other) and 1 in (one, other):
        return ROWS
    return _on_numbers(lambda a, b: a * b)(one, other)


def _equal(one: Size, other: Size) -> Size:
    """Exporters compare shapes with -1, which no number of rows is."""
    if (one == ROWS and isinstance(other, int) and other < 0) or (
        other == ROWS and isinstance(one, int) and one < 0
    ):
        return 0
    return _on_numbers(lambda a, b: int(a == b))(one, other)


def _chosen(condition: Size, one: Size, other: Size) -> Size:
    if isinstance(condition, int):
        return one if condition else other
    if one != other and ROWS in (one, other):
        raise Doubt("computes with the number of rows")
    return one if one == other else None


def _quotient(one: int, other: int) -> int:
    if other == 0:
        raise Doubt("divides a size by zero")
    return abs(one) // abs(other) * (1 if (one < 0) == (other < 0) else -1)


_ARITHMETIC: dict[str, Callable[..., Size]] = {
    "Add": _on_numbers(lambda a, b: a + b),
    "Sub": _on_numbers(lambda a, b: a - b),
    "Mul": _product,
    "Div": _on_numbers(_quotient),
    "Equal": _equal,
    "Where": _chosen,
    "Cast": lambda size: size,
    "Identity": lambda size: size,
}


def dropout(use: Use) -> Sequence[Value]:
    training = use.optional(2)
    if training is not None and training.elements != (0,):
        raise Doubt("may drop elements at random")
    value = use.data()
    return [value, value]


def quantize(use: Use) -> Sequence[Value]:
    """Scales of a whole tensor, or of a dimension that is not that of the rows, fixed in the file."""
    use.need_constants(0)
    value = use.data()
    if value.rows is None:
        return [Value(value.shape)]
    for parameter in use.inputs[1:]:
        if parameter is None or all(size == 1 for size in parameter.sizes):
            continue
        if parameter.rank != 1 or position(use.node.integer("axis", 1), value.rank) == value.rows:
            raise Doubt("has a scale for each row")
    return [value]


def matmul(use: Use) -> Sequence[Value]:
    one, other = use.data(0), use.data(1)
    if one.rows is None and other.rows is None:
        return [UNKNOWN]
    if min(one.rank, other.rank) < 2:
        raise Doubt("multiplies vectors")
    places = {value.rows - value.rank for value in (one, other) if value.rows is not None}
    if len(places) != 1:
        raise Doubt("pairs the rows with another dimension")
    (place,) = places
    if place >= -2:
        both = one.rows is not None and other.rows is not None
        if both or (place == -1 and one.rows is not None) or (place == -2 and other.rows is not None):
            raise Doubt("sums over the rows")
    elif any(v.rows is None and v.rank >= -place and v.sizes[place] != 1 for v in (one, other)):
        raise Doubt("pairs the rows with a constant of several")
    rank = max(one.rank, other.rank)
    shape = [*widest((one, other), rank, 2), one.sizes[-2], other.sizes[-1]]
    shape[rank + place] = ROWS
    return [Value(tuple(shape), rank + place)]


def gemm(use: Use) -> Sequence[Value]:
    use.need_constants(0, 2)
    _, rows = use.carrier()
    if use.node.integer("transA", 0) or rows != 0:
        raise Doubt("sums over the rows")
    result = Value((ROWS, use.data(1).sizes[0 if use.node.integer("transB", 0) else 1]), 0)
    return [result if use.optional(2) is None else broadcast([result, use.data(2)])]


def einsum(use: Use) -> Sequence[Value]:
    left, _, right = use.node.text("equation").replace(" ", "").partition("->")
    terms = left.split(",")
    values = [use.data(index) for index in range(len(use.inputs))]
    if not right or len(terms) != len(values):
        raise Doubt("has an equation that is not understood")
    if any(len(term) != value.rank or not term.isalpha() for term, value in zip(terms, values, strict=True)):
        raise Doubt("has an equation that is not understood")
    pairs = list(zip(terms, values, strict=True))
    letters = {term[value.rows] for term, value in pairs if value.rows is not None}
    if len(letters) != 1 or any(letters & set(term) for term, value in pairs if value.rows is None):
        raise Doubt("pairs the rows with another dimension")
    (letter,) = letters
    if right.count(letter) != 1 or any(term.count(letter) > 1 for term in terms):
        raise Doubt("sums over the rows")
    shape: list[Size] = [None] * len(right)
    shape[right.index(letter)] = ROWS
    return [Value(tuple(shape), right.index(letter))]


def product(sizes: Sequence[Size]) -> int | None:
    """The product of dimensions; None where one of them is not known."""
    numbers = [size for size in sizes if isinstance(size, int)]
    return prod(numbers) if len(numbers) == len(sizes) else None
