"""ONNX graphs of rows [rows, 8] whose rows do, or do not, change each other's answers.

``APART`` and ``MIXING`` are single steps from rows to rows; ``chain`` makes a model of several.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

WIDTH = 8
FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


class Steps:
    """Nodes and weights of a graph that grows; every step gives the name of what it makes."""

    def __init__(self, random: np.random.Generator) -> None:
        self.random = random
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, NDArray[Any]] = {}

    def node(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """The first output's name; another is ``<name>.<n>``."""
        name = f"t{len(self.nodes)}"
        names = [name, *(f"{name}.{n}" for n in range(1, outputs))]
        domain = "ai.onnx.ml" if operator in _ML else ""
        self.nodes.append(helper.make_node(operator, list(inputs), names, domain=domain, **attributes))
        return name

    def constant(self, value: Any) -> str:
        array = np.asarray(value)
        if array.dtype == np.float64:
            array = array.astype(np.float32)
        name = f"w{len(self.weights)}"
        self.weights[name] = array
        return name

    def matrix(self, *shape: int) -> str:
        return self.constant(self.random.standard_normal(shape) / np.sqrt(shape[-1]))

    def model(self, output: str) -> onnx.ModelProto:
        self.nodes.append(helper.make_node("Identity", [output], ["y"]))
        graph = helper.make_graph(
            self.nodes,
            "rows",
            [helper.make_tensor_value_info("x", FLOAT, ["rows", WIDTH])],
            [helper.make_tensor_value_info("y", FLOAT, ["others", WIDTH])],
            [numpy_helper.from_array(array, name) for name, array in self.weights.items()],
        )
        opsets = [helper.make_opsetid("", 19), helper.make_opsetid("ai.onnx.ml", 3)]
        model = helper.make_model(graph, ir_version=9, opset_imports=opsets)
        onnx.checker.check_model(model)
        return model


_ML = {"Scaler", "Normalizer"}
Step = Callable[[Steps, str], str]


def chain(steps: Sequence[Step], seed: int = 0) -> onnx.ModelProto:
    made = Steps(np.random.default_rng(seed))
    value = "x"
    for step in steps:
        value = step(made, value)
    return made.model(value)


def _over(axis: int, operator: str) -> Step:
    def step(s: Steps, x: str) -> str:
        return s.node("Sub", x, s.node(operator, x, s.constant([axis]), keepdims=1))

    return step


def _scores(axis: int) -> Step:
    return lambda s, x: s.node("Softmax", x, axis=axis)


def _sums(axis: int) -> Step:
    return lambda s, x: s.node("Mul", s.node("CumSum", x, s.constant(axis)), s.constant(0.3))


def _sorted(s: Steps, x: str) -> str:
    return s.node("TopK", x, s.constant([WIDTH]), outputs=2, axis=1)


def _sorted_rows(s: Steps, x: str) -> str:
    count = s.node("Slice", s.node("Shape", x), s.constant([0]), s.constant([1]))
    return s.node("TopK", x, count, outputs=2, axis=0)


def _dense(s: Steps, x: str) -> str:
    return s.node("Tanh", s.node("Gemm", x, s.matrix(WIDTH, WIDTH), s.matrix(WIDTH), transB=1))


def _product(s: Steps, x: str) -> str:
    return s.node("MatMul", x, s.matrix(WIDTH, WIDTH))


def _product_of_rows(s: Steps, x: str) -> str:
    scores = s.node("MatMul", x, s.node("Transpose", x, perm=[1, 0]))
    return s.node("MatMul", s.node("Softmax", scores, axis=1), x)


def _heads(s: Steps, x: str) -> str:
    """Attention within a row, with shapes computed as exporters do."""
    rows = s.node("Unsqueeze", s.node("Gather", s.node("Shape", x), s.constant(0), axis=0), s.constant([0]))
    shape = s.node("Concat", rows, s.constant([2]), s.constant([4]), axis=0)
    heads = s.node("Reshape", x, shape)
    scores = s.node("MatMul", heads, s.node("Transpose", heads, perm=[0, 2, 1]))
    mixed = s.node("MatMul", s.node("Softmax", scores, axis=-1), heads)
    return s.node("Reshape", mixed, s.node("Concat", rows, s.constant([-1]), axis=0))


def _halves(s: Steps, x: str) -> str:
    first = s.node("Split", x, outputs=2, axis=1, num_outputs=2)
    return s.node("Concat", f"{first}.1", first, axis=1)


def _columns(s: Steps, x: str) -> str:
    return s.node("Gather", x, s.constant([7, 1, 1, 0, 3, 2, 6, 5]), axis=1)


def _cut(s: Steps, x: str) -> str:
    cut = s.node("Slice", x, s.constant([2]), s.constant([8]), s.constant([1]))
    return s.node("Pad", cut, s.constant([0, 1, 0, 1]))


def _normalised(s: Steps, x: str) -> str:
    return s.node("LayerNormalization", x, s.matrix(WIDTH), s.matrix(WIDTH), axis=-1)


def _batch_norm(s: Steps, x: str) -> str:
    mean, variance = s.matrix(WIDTH), s.constant(s.random.random(WIDTH) + 0.5)
    return s.node("BatchNormalization", x, s.matrix(WIDTH), s.matrix(WIDTH), mean, variance)


def _chosen(s: Steps, x: str) -> str:
    return s.node("Where", s.node("Greater", x, s.constant(0.0)), x, s.node("Exp", x))


def _looked_up(s: Steps, x: str) -> str:
    place = s.node("ArgMax", x, axis=1, keepdims=0)
    return s.node("Gather", s.matrix(WIDTH, WIDTH), place, axis=0)


def _pictures(s: Steps, x: str) -> str:
    picture = s.node("Reshape", x, s.constant([-1, 1, 2, 4]))
    filtered = s.node("Conv", picture, s.matrix(2, 1, 3, 3), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
    pooled = s.node("MaxPool", filtered, kernel_shape=[2, 1])
    return s.node("Flatten", pooled)


def _quantized(s: Steps, x: str) -> str:
    scale, zero = s.constant(0.05), s.constant(np.uint8(128))
    return s.node("DequantizeLinear", s.node("QuantizeLinear", x, scale, zero), scale, zero)


def _dynamically_quantized(s: Steps, x: str) -> str:
    levels = s.node("DynamicQuantizeLinear", x, outputs=3)
    return s.node("DequantizeLinear", levels, f"{levels}.1", f"{levels}.2")


def _recurrent(operator: str, rows_second: bool) -> Step:
    """A network over the columns of each row, or over the rows."""
    gates = {"LSTM": 4, "GRU": 3, "RNN": 1}[operator]

    def step(s: Steps, x: str) -> str:
        if not rows_second:
            sequence = s.node("Unsqueeze", x, s.constant([1]))  # rows, 1, 8
            width = WIDTH
        else:
            columns = s.node("Transpose", x, perm=[1, 0])  # 8, rows
            sequence = s.node("Unsqueeze", columns, s.constant([2]))  # 8, rows, 1
            width = 1
        weights, state = s.matrix(1, gates * WIDTH, width), s.matrix(1, gates * WIDTH, WIDTH)
        outputs = s.node(operator, sequence, weights, state, outputs=2, hidden_size=WIDTH)
        if rows_second:
            return s.node("Squeeze", f"{outputs}.1", s.constant([0]))
        return s.node("Squeeze", outputs, s.constant([1, 2]))

    return step


def _next_row(s: Steps, x: str) -> str:
    """The row before, and a row of the file for the first."""
    longer = s.node("Concat", s.matrix(1, WIDTH), x, axis=0)
    return s.node("Slice", longer, s.constant([0]), s.constant([-1]), s.constant([0]))


def _backwards(s: Steps, x: str) -> str:
    return s.node("Slice", x, s.constant([-1]), s.constant([-(2**31)]), s.constant([0]), s.constant([-1]))


def _selected(s: Steps, x: str) -> str:
    """The rows whose first element is positive: none of most neighbours' is sent back."""
    first = s.node(
        "Squeeze", s.node("Slice", x, s.constant([0]), s.constant([1]), s.constant([1])), s.constant([1])
    )
    return s.node("Compress", x, s.node("Greater", first, s.constant(0.0)), axis=0)


def _not_zero(s: Steps, x: str) -> str:
    places = s.node("NonZero", s.node("ReduceMax", x, s.constant([1]), keepdims=0))
    return s.node("Gather", x, s.node("Squeeze", places, s.constant([0])), axis=0)


def _if_large(s: Steps, x: str) -> str:
    """Mixes only where a batch holds a large number."""
    large = s.node("Greater", s.node("ReduceMax", x, s.constant([0, 1]), keepdims=0), s.constant(6.0))
    return s.node("Where", large, _over(0, "ReduceMean")(s, x), x)


def _if_between(s: Steps, x: str) -> str:
    """Mixes only where the largest number of a batch is in a narrow range."""
    most = s.node("ReduceMax", x, s.constant([0, 1]), keepdims=0)
    above, below = s.node("Greater", most, s.constant(2.0)), s.node("Less", most, s.constant(2.4))
    return s.node("Where", s.node("And", above, below), _over(0, "ReduceMean")(s, x), x)


def _by_count(s: Steps, x: str) -> str:
    count = s.node("Gather", s.node("Shape", x), s.constant(0), axis=0)
    return s.node("Div", x, s.node("Cast", count, to=FLOAT))


def _numbered(s: Steps, x: str) -> str:
    count = s.node("Gather", s.node("Shape", x), s.constant(0), axis=0)
    numbers = s.node("Range", s.constant(np.int64(0)), count, s.constant(np.int64(1)))
    return s.node("Add", x, s.node("Unsqueeze", s.node("Cast", numbers, to=FLOAT), s.constant([1])))


def _looped(s: Steps, x: str) -> str:
    """Doubled as often as the largest number of the batch says."""
    trips = s.node("Cast", s.node("ReduceMax", x, s.constant([0, 1]), keepdims=0), to=INT64)
    body = helper.make_graph(
        [
            helper.make_node("Mul", ["state", "half"], ["after"]),
            helper.make_node("Identity", ["going"], ["goes_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("trip", INT64, ()),
            helper.make_tensor_value_info("going", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("state", FLOAT, ("n", WIDTH)),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("after", FLOAT, ("n", WIDTH)),
        ],
        [numpy_helper.from_array(np.array(0.5, np.float32), "half")],
    )
    return s.node("Loop", trips, "", x, body=body)


def _branched(s: Steps, x: str) -> str:
    def branch(name: str, nodes: list[onnx.NodeProto]) -> onnx.GraphProto:
        return helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(name, FLOAT, ("n", WIDTH))])

    mean = s.node("ReduceMean", x, s.constant([0]), keepdims=1)
    large = s.node("Greater", s.node("ReduceMax", x, s.constant([0, 1]), keepdims=0), s.constant(2.0))
    return s.node(
        "If",
        large,
        then_branch=branch("then", [helper.make_node("Sub", [x, mean], ["then"])]),
        else_branch=branch("other", [helper.make_node("Neg", [x], ["other"])]),
    )


def _swapped(s: Steps, x: str) -> str:
    """Elements of all rows, arranged by column."""
    flat = s.node("Reshape", s.node("Transpose", x, perm=[1, 0]), s.constant([-1, WIDTH]))
    return s.node("Neg", flat)


def _einsum(s: Steps, x: str) -> str:
    return s.node("Einsum", x, s.matrix(WIDTH, WIDTH), equation="ij,kj->ik")


def _einsum_of_rows(s: Steps, x: str) -> str:
    return s.node("Einsum", s.node("Einsum", x, x, equation="ij,kj->ik"), x, equation="ik,kj->ij")


def _written(s: Steps, x: str) -> str:
    """The first row is written over by one of the file."""
    return s.node("ScatterND", x, s.constant([[0]]), s.matrix(1, WIDTH))


def _padded(s: Steps, x: str) -> str:
    return s.node("Pad", x, s.constant([0, 0, 1, 0]))


def _suppressed(s: Steps, x: str) -> str:
    """Boxes that overlap a better one vanish."""
    boxes = s.node(
        "Unsqueeze", s.node("Slice", x, s.constant([0]), s.constant([4]), s.constant([1])), s.constant([0])
    )
    scores = s.node(
        "Transpose", s.node("Slice", x, s.constant([4]), s.constant([5]), s.constant([1])), perm=[1, 0]
    )
    kept = s.node(
        "NonMaxSuppression",
        boxes,
        s.node("Unsqueeze", scores, s.constant([0])),
        s.constant([100]),
        s.constant(np.array([0.1], np.float32)),
    )
    places = s.node("Gather", kept, s.constant(2), axis=1)
    return s.node("Gather", x, places, axis=0)


APART: Mapping[str, Step] = {
    "batch-norm": _batch_norm,
    "chosen": _chosen,
    "columns": _columns,
    "cut": _cut,
    "dense": _dense,
    "einsum": _einsum,
    "gru": _recurrent("GRU", True),
    "halves": _halves,
    "heads": _heads,
    "looked-up": _looked_up,
    "lstm": _recurrent("LSTM", True),
    "maximum-in-row": _over(1, "ReduceMax"),
    "mean-of-row": _over(1, "ReduceMean"),
    "normalised": _normalised,
    "pictures": _pictures,
    "product": _product,
    "quantized": _quantized,
    "softmax-of-row": _scores(1),
    "sorted": _sorted,
    "sums-of-row": _sums(1),
}
MIXING: Mapping[str, Step] = {
    "backwards": _backwards,
    "branched": _branched,
    "by-count": _by_count,
    "dynamically-quantized": _dynamically_quantized,
    "einsum-of-rows": _einsum_of_rows,
    "gru-along-rows": _recurrent("GRU", False),
    "if-between": _if_between,
    "if-large": _if_large,
    "looped": _looped,
    "lstm-along-rows": _recurrent("LSTM", False),
    "maximum": _over(0, "ReduceMax"),
    "mean": _over(0, "ReduceMean"),
    "next-row": _next_row,
    "not-zero": _not_zero,
    "numbered": _numbered,
    "padded": _padded,
    "product-of-rows": _product_of_rows,
    "selected": _selected,
    "softmax": _scores(0),
    "sorted-rows": _sorted_rows,
    "sums": _sums(0),
    "suppressed": _suppressed,
    "swapped": _swapped,
    "written": _written,
}
