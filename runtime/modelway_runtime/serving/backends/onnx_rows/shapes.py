"""Operators that arrange, pick and repeat elements, and those that make shapes."""

from __future__ import annotations

from collections.abc import Sequence

from modelway_runtime.serving.backends.onnx_rows.arithmetic import product
from modelway_runtime.serving.backends.onnx_rows.values import (
    ROWS,
    UNKNOWN,
    Doubt,
    Size,
    Sizes,
    Use,
    Value,
    broadcast,
    position,
    value_of,
)


def constant(use: Use) -> Sequence[Value]:
    tensor = use.node.tensor("value")
    if tensor is not None:
        return [value_of(tensor)]
    numbers = use.node.integers("value_ints")
    if numbers is not None:
        return [Value((len(numbers),), None, numbers)]
    if "value_int" in use.node.attributes:
        return [Value((), None, (use.node.integer("value_int", 0),))]
    return [Value(() if "value_float" in use.node.attributes else None)]


def shape_of(use: Use) -> Sequence[Value]:
    value = use.value(0)
    if value.shape is None:
        return [UNKNOWN]
    sizes = value.shape[use.node.integer("start", 0) : use.node.integer("end", len(value.shape))]
    return [Value((len(sizes),), None, sizes)]


def filled(use: Use) -> Sequence[Value]:
    sizes = _sizes_of(use.value(0))
    if ROWS in sizes:
        return [Value(sizes, sizes.index(ROWS))]
    tensor = use.node.tensor("value")
    numbers = tensor.numbers if tensor is not None else None
    if numbers is not None and len(sizes) == 1 and isinstance(sizes[0], int) and 0 < sizes[0] <= 64:
        return [Value(sizes, None, numbers * sizes[0])]
    return [Value(sizes)]


def expand(use: Use) -> Sequence[Value]:
    value, sizes = use.data(), _sizes_of(use.value(1))
    wide = Value(sizes, sizes.index(ROWS) if ROWS in sizes else None)
    return [UNKNOWN if value.rows is None and wide.rows is None else broadcast([value, wide])]


def _sizes_of(shape: Value) -> Sizes:
    """The elements of a shape, in which the rows occur once at most."""
    if shape.rows is not None or shape.elements is None or shape.elements.count(ROWS) > 1:
        raise Doubt("has a shape that is not known")
    return shape.elements


def reshape(use: Use) -> Sequence[Value]:
    value, target = use.value(0), use.value(1)
    if value.rows is None:
        return [_reshaped_constant(value, target)]
    if target.rows is not None or target.elements is None:
        raise Doubt("has a shape that is not known")
    rows, sizes = value.rows, list(target.elements)
    if not use.node.integer("allowzero", 0):
        sizes = [value.sizes[i] if size == 0 and i < value.rank else size for i, size in enumerate(sizes)]
    for index in range(rows):  # what comes before the rows stays what it is
        copied = index < len(sizes) and target.elements[index] == 0
        if not copied and (sizes[index : index + 1] != [value.sizes[index]] or value.sizes[index] is None):
            raise Doubt("moves elements from row to row")
    if len(sizes) <= rows or ROWS in sizes[rows + 1 :]:
        raise Doubt("moves elements from row to row")
    if sizes[rows] != ROWS and not _fills_rows(use, value, sizes):
        raise Doubt("moves elements from row to row")
    rest = tuple(None if size == -1 else size for size in sizes)
    return [Value((*rest[:rows], ROWS, *rest[rows + 1 :]), rows)]


def _reshaped_constant(value: Value, target: Value) -> Value:
    if target.rows is not None or target.counts:
        raise Doubt("has a shape that is not known")
    elements = value.elements
    if target.elements == (-1,) and elements is not None:
        return Value((len(elements),), None, elements)
    if value.counts:
        raise Doubt("computes with the number of rows")
    known = target.elements is not None and all(isinstance(s, int) and s > 0 for s in target.elements)
    return Value(target.elements if known else None)


def _fills_rows(use: Use, value: Value, sizes: Sequence[Size]) -> bool:
    """Whether a first size of -1 stands for the rows, or for as many parts of each.

    Where requests decide no size but the rows, the warm-up shows it: a row alone must have whole parts.
    """
    if value.rows != 0 or sizes[0] != -1:
        return False
    old, new = product(value.sizes[1:]), product(sizes[1:])
    return new is not None and (old == new or (old is None and use.fixed_sizes))


def flatten(use: Use) -> Sequence[Value]:
    value, rows = use.carrier()
    if rows != 0 or position(use.node.integer("axis", 1), value.rank) != 1:
        raise Doubt("moves elements from row to row")
    return [Value((ROWS, product(value.sizes[1:])), 0)]


def transpose(use: Use) -> Sequence[Value]:
    value = use.data()
    if value.shape is None:
        return [UNKNOWN]
    order = use.node.integers("perm") or tuple(reversed(range(value.rank)))
    if sorted(order) != list(range(value.rank)):
        raise Doubt("has an order that does not fit")
    shape = tuple(value.sizes[index] for index in order)
    return [Value(shape, order.index(value.rows) if value.rows is not None else None)]


def squeeze(use: Use) -> Sequence[Value]:
    value, axes = use.value(0), use.numbers("axes", 1)
    if value.rows is None:
        if value.elements is not None and len(value.elements) == 1:
            return [Value((), None, value.elements)]
        return [Value(None, None, value.elements)]
    if axes is None:
        raise Doubt("drops the dimension of rows where there is one row")
    dropped = {position(axis, value.rank) for axis in axes}
    if value.rows in dropped:
        raise Doubt("drops the dimension of rows where there is one row")
    kept = [index for index in range(value.rank) if index not in dropped]
    return [Value(tuple(value.sizes[index] for index in kept), kept.index(value.rows))]


def unsqueeze(use: Use) -> Sequence[Value]:
    value, axes = use.value(0), use.numbers("axes", 1)
    if axes is None:
        raise Doubt("lacks an input")
    if value.shape is None:
        return [UNKNOWN]
    rank = value.rank + len(axes)
    added = {position(axis, rank) for axis in axes}
    rest = iter(value.shape)
    shape = tuple(1 if index in added else next(rest) for index in range(rank))
    if value.rows is not None:
        return [Value(shape, [index for index in range(rank) if index not in added][value.rows])]
    if rank > 1 and value.counts:
        raise Doubt("computes with the number of rows")
    return [Value(shape, None, value.elements if rank == 1 else None)]


def concat(use: Use) -> Sequence[Value]:
    values = [value for value in use.inputs if value is not None]
    carriers = [value for value in values if value.rows is not None]
    if not carriers:
        return [_joined(values)]
    first = carriers[0]
    axis = position(use.node.integer("axis", 0), first.rank)
    if axis == first.rows or any(v.rows != first.rows or v.rank != first.rank for v in values):
        raise Doubt("puts other rows beside the rows")
    return [Value(tuple(None if i == axis else s for i, s in enumerate(first.sizes)), first.rows)]


def _joined(values: Sequence[Value]) -> Value:
    if any(value.elements is None or value.shape is None or value.rank != 1 for value in values):
        if any(value.counts for value in values):
            raise Doubt("computes with the number of rows")
        return UNKNOWN
    elements = tuple(element for value in values for element in value.elements or ())
    return Value((len(elements),), None, elements)


def split(use: Use) -> Sequence[Value]:
    use.need_constants(0)
    value, rows = use.carrier()
    axis = position(use.node.integer("axis", 0), value.rank)
    if axis == rows:
        raise Doubt("cuts the rows apart")
    shape = tuple(None if index == axis else size for index, size in enumerate(value.sizes))
    return [Value(shape, rows)] * len(use.node.outputs)


def slices(use: Use) -> Sequence[Value]:
    use.need_constants(0)
    value = use.value(0)
    if value.rows is None:
        return [_sliced_constant(use, value)]
    axes = use.numbers("axes", 3)
    cut = set(range(value.rank)) if axes is None else {position(axis, value.rank) for axis in axes}
    if value.rows in cut:
        raise Doubt("cuts the rows apart")
    return [Value(tuple(None if i in cut else s for i, s in enumerate(value.sizes)), value.rows)]


def _sliced_constant(use: Use, value: Value) -> Value:
    if value.elements is None:
        shape = value.shape
        return Value(tuple(1 if size == 1 else None for size in shape) if shape is not None else None)
    starts, ends, steps = use.numbers("starts", 1), use.numbers("ends", 2), use.numbers("steps", 4)
    if starts is None or ends is None or len(starts) != 1 or len(ends) != 1:
        raise Doubt("cuts a shape in a way that is not understood")
    elements = value.elements[starts[0] : ends[0] : steps[0] if steps else 1]
    return Value((len(elements),), None, elements)


def gather(use: Use) -> Sequence[Value]:
    data, indices = use.value(0), use.value(1)
    if data.elements is not None and data.rank == 1 and indices.elements is not None:
        return [_looked_up(data.elements, indices)]
    if data.counts or indices.counts:
        raise Doubt("computes with the number of rows")
    if data.rows is not None and indices.rows is not None:
        raise Doubt("picks one row for another")
    if data.shape is None or indices.shape is None:
        if data.rows is None and indices.rows is None:
            return [UNKNOWN]
        raise Doubt("takes a constant whose shape is not known")
    axis = position(use.node.integer("axis", 0), data.rank)
    shape = (*data.sizes[:axis], *indices.sizes, *data.sizes[axis + 1 :])
    if indices.rows is not None:
        return [Value(shape, axis + indices.rows)]
    if data.rows is None:
        return [Value(shape)]
    if data.rows == axis:
        raise Doubt("picks one row for another")
    return [Value(shape, data.rows if data.rows < axis else data.rows - 1 + indices.rank)]


def _looked_up(elements: Sizes, indices: Value) -> Value:
    picked: list[Size] = []
    for index in indices.elements or ():
        if not isinstance(index, int) or not -len(elements) <= index < len(elements):
            raise Doubt("picks an element that is not known")
        picked.append(elements[index])
    return Value(indices.shape, None, tuple(picked))


def gather_elements(use: Use) -> Sequence[Value]:
    (data, rows), (indices, others) = use.carrier(0), use.carrier(1)
    axis = position(use.node.integer("axis", 0), data.rank)
    if rows != others or axis == rows or data.rank != indices.rank:
        raise Doubt("picks one row for another")
    return [indices]


def tile(use: Use) -> Sequence[Value]:
    (value, rows), repeats = use.carrier(), use.numbers("repeats", 1)
    if repeats is None or len(repeats) != value.rank or repeats[rows] != 1:
        raise Doubt("repeats the rows")
    shape = tuple(size if times == 1 else None for size, times in zip(value.sizes, repeats, strict=True))
    return [Value(shape, rows)]


def pad(use: Use) -> Sequence[Value]:
    use.need_constants(0)
    (value, rows), pads = use.carrier(), use.numbers("pads", 1)
    if pads is None or use.optional(3) is not None or len(pads) != 2 * value.rank:
        raise Doubt("may add rows")
    if pads[rows] or pads[rows + value.rank]:
        raise Doubt("adds rows")
    return [Value(tuple(size if index == rows else None for index, size in enumerate(value.sizes)), rows)]


def numbered(use: Use) -> Sequence[Value]:
    use.need_constants()
    return [Value((None,))]
