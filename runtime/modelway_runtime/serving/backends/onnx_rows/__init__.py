"""Whether an ONNX graph keeps rows apart: each row of each output depends on that row of the inputs alone.

The dimension of rows is followed through the graph, operator by operator. ``RULES`` holds the operators that
are understood; any other, and any use of one that may mix rows, is a doubt. So what passes mixes no rows
whatever the inputs hold, not only for inputs that were tried. Numbers of rows are followed, too, because
exporters write shapes as arithmetic on them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from modelway_runtime.serving.backends.base import Reading
from modelway_runtime.serving.backends.onnx_rows import arithmetic, layers, shapes
from modelway_runtime.serving.backends.onnx_rows.graph import Graph, Node, NotReadable, read
from modelway_runtime.serving.backends.onnx_rows.values import (
    ROWS,
    UNKNOWN,
    Doubt,
    Rule,
    Size,
    Use,
    Value,
    value_of,
)
from modelway_runtime.settings import TensorSpec


def read_rows(path: Path, inputs: Mapping[str, TensorSpec], dimensions: dict[str, str]) -> Reading:
    """What the graph in a file says, for inputs of such shapes. Raises OSError."""
    try:
        graph = read(path)
    except NotReadable as error:
        return Reading(f"the graph cannot be read ({error})", False, dimensions)
    try:
        doubt = find_doubt(graph, inputs)
    except (LookupError, ValueError, TypeError) as error:  # an operator that is written in an unusual way
        doubt = f"the graph is not understood ({error})"
    steady = all(_key(node) in RULES and node.operator not in _GROWING for node in graph.nodes)
    return Reading(doubt, doubt is None or steady, dimensions)


def find_doubt(graph: Graph, inputs: Mapping[str, TensorSpec]) -> str | None:
    """Why rows may influence each other; None: they cannot."""
    if graph.opset < OLDEST:
        return f"its operators are of version {graph.opset}: those from {OLDEST} on are understood"
    if any(spec.shape[:1] != (-1,) for spec in inputs.values()):
        return "not every input begins with a dimension of any size"
    fixed_sizes = all(-1 not in spec.shape[1:] for spec in inputs.values())
    values = {name: value_of(constant) for name, constant in graph.constants.items()}
    for name, spec in inputs.items():
        sizes: list[Size] = [size if size >= 0 else None for size in spec.shape[1:]]
        values[name] = Value((ROWS, *sizes), 0)
    for node in graph.nodes:
        try:
            _follow(node, values, graph.opset, fixed_sizes)
        except Doubt as why:
            called = f" {node.name!r}" if node.name else ""
            return f"the operator {node.operator}{called} {why}"
    for name in graph.outputs:
        if name not in values or values[name].rows != 0:
            return f"the output {name!r} does not begin with the rows"
    return None


def _follow(node: Node, values: dict[str, Value], opset: int, fixed_sizes: bool) -> None:
    """Add what a node gives. Raises Doubt."""
    rule = RULES.get(_key(node))
    if rule is None:
        raise Doubt("is not known to keep rows apart")
    if any(name and name not in values for name in node.inputs):
        raise Doubt("takes a tensor of which nothing is known")
    inputs = tuple(values[name] if name else None for name in node.inputs)
    use = Use(node, inputs, opset, fixed_sizes)
    if rule not in _OF_CONSTANTS and all(v is None or (v.rows is None and not v.counts) for v in inputs):
        results = [UNKNOWN] * len(node.outputs)
    else:
        results = list(rule(use))
    values |= {name: value for name, value in zip(node.outputs, results, strict=False) if name}


def _key(node: Node) -> str:
    return node.operator if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.operator}"


_ELEMENTWISE = (
    "Abs", "Acos", "Acosh", "Add", "And", "Asin", "Asinh", "Atan", "Atanh", "BitwiseAnd", "BitwiseNot",
    "BitwiseOr", "BitwiseXor", "Cast", "CastLike", "Ceil", "Celu", "Clip", "Cos", "Cosh", "Div", "Elu",
    "Equal", "Erf", "Exp", "Floor", "Gelu", "Greater", "GreaterOrEqual", "HardSigmoid", "HardSwish",
    "Identity", "IsInf", "IsNaN", "LeakyRelu", "Less", "LessOrEqual", "Log", "Max", "Mean", "Min", "Mish",
    "Mod", "Mul", "Neg", "Not", "Or", "PRelu", "Pow", "Reciprocal", "Relu", "Round", "Selu", "Sigmoid",
    "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Sqrt", "Sub", "Sum", "Tan", "Tanh", "ThresholdedRelu",
    "Where", "Xor", "ai.onnx.ml.Binarizer", "ai.onnx.ml.CategoryMapper", "ai.onnx.ml.LabelEncoder",
    "com.microsoft.BiasGelu", "com.microsoft.FastGelu", "com.microsoft.Gelu", "com.microsoft.QuickGelu",
)  # fmt: skip
_OF_IMAGES = (
    "AveragePool", "Conv", "ConvInteger", "ConvTranspose", "DepthToSpace", "GlobalAveragePool",
    "GlobalLpPool", "GlobalMaxPool", "GroupNormalization", "InstanceNormalization", "LRN", "LpPool",
    "MaxPool", "SpaceToDepth",
)  # fmt: skip
_REDUCTIONS = (
    "ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin",
    "ReduceProd", "ReduceSum", "ReduceSumSquare",
)  # fmt: skip
_GROWING = {"ConstantOfShape", "Expand", "OneHot", "Pad", "Range", "Tile"}
"""Operators whose output is as large as what an input holds says."""

OLDEST = 7
"""The first version of the standard operators whose broadcasting is that of today."""
RULES: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, arithmetic.elementwise),
    **dict.fromkeys(_OF_IMAGES, layers.of_images),
    **dict.fromkeys(_REDUCTIONS, layers.reduction),
    **dict.fromkeys(("ArgMax", "ArgMin"), layers.largest),
    **dict.fromkeys(("Softmax", "LogSoftmax", "Hardmax"), layers.along(-1, flattens_before=13)),
    **dict.fromkeys(("QuantizeLinear", "DequantizeLinear"), arithmetic.quantize),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), layers.recurrent),
    "BatchNormalization": layers.batch_norm,
    "Concat": shapes.concat,
    "Constant": shapes.constant,
    "ConstantOfShape": shapes.filled,
    "CumSum": layers.cumulative,
    "Dropout": arithmetic.dropout,
    "Einsum": arithmetic.einsum,
    "Expand": shapes.expand,
    "Flatten": shapes.flatten,
    "Gather": shapes.gather,
    "GatherElements": shapes.gather_elements,
    "Gemm": arithmetic.gemm,
    "LayerNormalization": layers.layer_norm,
    "LpNormalization": layers.along(-1),
    "MatMul": arithmetic.matmul,
    "OneHot": layers.one_hot,
    "Pad": shapes.pad,
    "Range": shapes.numbered,
    "Reshape": shapes.reshape,
    "Shape": shapes.shape_of,
    "Slice": shapes.slices,
    "Split": shapes.split,
    "Squeeze": shapes.squeeze,
    "Tile": shapes.tile,
    "TopK": layers.top_k,
    "Transpose": shapes.transpose,
    "Trilu": layers.triangle,
    "Unsqueeze": shapes.unsqueeze,
    "ai.onnx.ml.Imputer": layers.of_features(2),
    "ai.onnx.ml.LinearClassifier": layers.of_features(1, 2),
    "ai.onnx.ml.LinearRegressor": layers.of_features(2),
    "ai.onnx.ml.Normalizer": layers.of_features(2),
    "ai.onnx.ml.SVMClassifier": layers.of_features(1, 2),
    "ai.onnx.ml.SVMRegressor": layers.of_features(2),
    "ai.onnx.ml.Scaler": layers.of_features(2),
    "ai.onnx.ml.TreeEnsembleClassifier": layers.of_features(1, 2),
    "ai.onnx.ml.TreeEnsembleRegressor": layers.of_features(2),
}
_OF_CONSTANTS: set[Rule] = {
    arithmetic.elementwise,
    arithmetic.quantize,
    shapes.concat,
    shapes.constant,
    shapes.expand,
    shapes.filled,
    shapes.gather,
    shapes.numbered,
    shapes.reshape,
    shapes.shape_of,
    shapes.slices,
    shapes.squeeze,
    shapes.transpose,
    shapes.unsqueeze,
}
"""Rules that say something of constants, too; most of these make shapes."""
