"""Convolutions, norms, reductions, recurrent networks, trees: what works along some dimensions."""

from __future__ import annotations

from collections.abc import Sequence

from modelway_runtime.serving.backends.onnx_rows.values import (
    ROWS,
    Doubt,
    Rule,
    Use,
    Value,
    broadcast,
    position,
)


def of_images(use: Use) -> Sequence[Value]:
    """One row is one picture; all else of the operator is the same for all rows.

    A second output (the places of maxima) counts from the first element of the first row: it is not known.
    """
    use.need_constants(0)
    value, rows = use.carrier()
    if rows != 0 or value.rank < 2:
        raise Doubt("does not have the rows first")
    return [Value((ROWS, *[None] * (value.rank - 1)), 0)]


def batch_norm(use: Use) -> Sequence[Value]:
    if use.node.integer("training_mode", 0) or len(use.node.outputs) > 1:
        raise Doubt("takes the mean over the rows")
    of_images(use)
    return [use.data()]


def layer_norm(use: Use) -> Sequence[Value]:
    value, rows = use.carrier()
    if rows >= position(use.node.integer("axis", -1), value.rank):
        raise Doubt("takes the mean over the rows")
    parameters = [use.data(index) for index in (1, 2) if use.optional(index) is not None]
    return [broadcast([value, *parameters])]


def along(default: int, *, flattens_before: int = 0) -> Rule:
    """An operator along one dimension, or, before a version, along all from that on."""

    def rule(use: Use) -> Sequence[Value]:
        use.need_constants(0)
        value, rows = use.carrier()
        old = use.opset < flattens_before
        axis = position(use.node.integer("axis", 1 if old else default), value.rank)
        if axis == rows or (old and rows > axis):
            raise Doubt("works along the rows")
        return [value]

    return rule


def top_k(use: Use) -> Sequence[Value]:
    (value,) = along(-1)(use)
    axis = position(use.node.integer("axis", -1), value.rank)
    shape = tuple(None if index == axis else size for index, size in enumerate(value.sizes))
    return [Value(shape, value.rows)] * 2


def cumulative(use: Use) -> Sequence[Value]:
    value, rows = use.carrier()
    axes = use.numbers("axis", 1)
    if axes is None or len(axes) != 1 or position(axes[0], value.rank) == rows:
        raise Doubt("works along the rows")
    return [value]


def reduction(use: Use) -> Sequence[Value]:
    return [_reduced(use, use.numbers("axes", 1))]


def largest(use: Use) -> Sequence[Value]:
    return [_reduced(use, (use.node.integer("axis", 0),))]


def _reduced(use: Use, axes: tuple[int, ...] | None) -> Value:
    value, rows = use.carrier()
    reduced = {position(axis, value.rank) for axis in axes or range(value.rank)}
    if rows in reduced:
        raise Doubt("works along the rows")
    if use.node.integer("keepdims", 1):
        return Value(tuple(1 if i in reduced else size for i, size in enumerate(value.sizes)), rows)
    kept = [index for index in range(value.rank) if index not in reduced]
    return Value(tuple(value.sizes[index] for index in kept), kept.index(rows))


def triangle(use: Use) -> Sequence[Value]:
    use.need_constants(0)
    value, rows = use.carrier()
    if rows >= value.rank - 2:
        raise Doubt("works along the rows")
    return [value]


def one_hot(use: Use) -> Sequence[Value]:
    use.need_constants(0)
    value, rows = use.carrier()
    axis = position(use.node.integer("axis", -1), value.rank + 1)
    return [Value((*value.sizes[:axis], None, *value.sizes[axis:]), rows + (axis <= rows))]


def recurrent(use: Use) -> Sequence[Value]:
    """Sequence first, rows second: as exporters write it."""
    use.need_constants(0, 4, 5, 6)
    value, rows = use.carrier()
    if use.node.integer("layout", 0) or rows != 1 or value.rank != 3:
        raise Doubt("goes along the rows")
    for index, place in ((4, 0), (5, 1), (6, 1)):
        state = use.optional(index)
        if state is not None and (state.counts or state.rows != place):
            raise Doubt("has a state that is not one of each row")
    states = Value((None, ROWS, None), 1)
    return [Value((value.sizes[0], None, ROWS, None), 2), states, states]


def of_features(*ranks: int) -> Rule:
    """Trees, supports, scores: rows of features become tensors of so many dimensions."""

    def rule(use: Use) -> Sequence[Value]:
        value, rows = use.carrier()
        if rows != 0 or value.rank != 2 or len(use.inputs) != 1:
            raise Doubt("does not have the rows first")
        return [Value((ROWS, *[None] * (rank - 1)), 0) for rank in ranks]

    return rule
