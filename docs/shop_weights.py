"""Weights for the reference shop's environment ``local``: right in their interface, random in their values.

``python docs/shop_weights.py [FOLDER]`` writes ``models/<team>/<model>/…`` below the folder (the working
folder if none is named), where ``generated/local`` looks for them.
"""

from __future__ import annotations

import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 17, 9
VOCABULARY, WIDTH = 1000, 384


def main(folder: Path) -> None:
    random = np.random.default_rng(7)
    dense(folder / "search/ranker", random, [64, 256, 64, 1], "features", "score")
    dense(folder / "search/ranker-lite", random, [64, 1], "features", "score")
    encoder(folder / "search/encoder", random)
    two_towers(folder / "recommendation/recommender", random)
    classifier(folder / "recommendation/image-classifier")


def dense(folder: Path, random: np.random.Generator, sizes: list[int], source: str, target: str) -> None:
    """A multi-layer perceptron that ends in a score between 0 and 1."""
    nodes, weights, last = [], [], source
    for index, (before, after) in enumerate(pairwise(sizes)):
        is_last = index == len(sizes) - 2
        weights += [constant(f"w{index}", random.normal(0, before**-0.5, (before, after)))]
        weights += [constant(f"b{index}", np.zeros(after))]
        nodes.append(helper.make_node("Gemm", [last, f"w{index}", f"b{index}"], [f"g{index}"]))
        last = target if is_last else f"a{index}"
        nodes.append(helper.make_node("Sigmoid" if is_last else "Relu", [f"g{index}"], [last]))
    inputs = [value(source, TensorProto.FLOAT, ["rows", sizes[0]])]
    save(folder, nodes, weights, inputs, [value(target, TensorProto.FLOAT, ["rows", sizes[-1]])])


def encoder(folder: Path, random: np.random.Generator) -> None:
    """Word vectors, averaged where the mask says that there is a word, and one layer."""
    weights = [
        constant("words", random.normal(0, 1, (VOCABULARY, WIDTH))),
        constant("types", random.normal(0, 0.1, (2, WIDTH))),
        constant("w", random.normal(0, WIDTH**-0.5, (WIDTH, WIDTH))),
        constant("tiny", np.array(1e-6)),
        numpy_helper.from_array(np.array(VOCABULARY, np.int64), "vocabulary"),
        numpy_helper.from_array(np.array([1], np.int64), "axis"),
        numpy_helper.from_array(np.array([2], np.int64), "last"),
    ]
    nodes = [
        helper.make_node("Mod", ["input_ids", "vocabulary"], ["id"]),
        helper.make_node("Gather", ["words", "id"], ["word"]),
        helper.make_node("Gather", ["types", "token_type_ids"], ["type"]),
        helper.make_node("Add", ["word", "type"], ["token"]),
        helper.make_node("Cast", ["attention_mask"], ["flat_mask"], to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["flat_mask", "last"], ["mask"]),
        helper.make_node("Mul", ["token", "mask"], ["kept"]),
        helper.make_node("ReduceSum", ["kept", "axis"], ["sum"], keepdims=0),
        helper.make_node("ReduceSum", ["mask", "axis"], ["words_kept"], keepdims=0),
        helper.make_node("Max", ["words_kept", "tiny"], ["count"]),
        helper.make_node("Div", ["sum", "count"], ["mean"]),
        helper.make_node("MatMul", ["mean", "w"], ["sentence_embedding"]),
    ]
    names = ("attention_mask", "input_ids", "token_type_ids")
    inputs = [value(name, TensorProto.INT64, ["rows", "tokens"]) for name in names]
    outputs = [value("sentence_embedding", TensorProto.FLOAT, ["rows", WIDTH])]
    save(folder, nodes, weights, inputs, outputs)


def two_towers(folder: Path, random: np.random.Generator) -> None:
    """A tower for the customer, one for the product, and how well they agree."""
    sizes = {"customer": 96, "product": 128}
    weights = [constant(f"w_{n}", random.normal(0, size**-0.5, (size, 128))) for n, size in sizes.items()]
    nodes = [helper.make_node("MatMul", [name, f"w_{name}"], [f"{name}_vector"]) for name in sizes]
    nodes += [
        helper.make_node("Mul", ["customer_vector", "product_vector"], ["both"]),
        helper.make_node("ReduceMean", ["both"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Sigmoid", ["mean"], ["affinity"]),
    ]
    inputs = [value(name, TensorProto.FLOAT, ["rows", size]) for name, size in sizes.items()]
    save(folder, nodes, weights, inputs, [value("affinity", TensorProto.FLOAT, ["rows", 1])])


def classifier(folder: Path) -> None:
    """A VGG with a sixteenth of the channels: the real one has half a gigabyte."""
    import torch
    from torch import nn

    from modelway_runtime.serving.backends.architecture import save as save_torch
    from modelway_runtime.settings import TensorSpec

    torch.manual_seed(7)
    layers: list[nn.Module] = []
    channels = 3
    for size in (4, 4, 0, 8, 8, 0, 16, 16, 16, 0, 32, 32, 32, 0, 32, 32, 32, 0):
        if not size:
            layers.append(nn.MaxPool2d(2, 2))
            continue
        layers += [nn.Conv2d(channels, size, 3, padding=1), nn.ReLU()]
        channels = size
    layers += [nn.AdaptiveAvgPool2d(7), nn.Flatten(), nn.Linear(channels * 49, 256), nn.ReLU()]
    layers += [nn.Dropout(), nn.Linear(256, 1000)]
    folder.mkdir(parents=True, exist_ok=True)
    save_torch(
        nn.Sequential(*layers),
        folder / "model.safetensors",
        {"image": TensorSpec(datatype="FP32", shape=(-1, 3, 224, 224))},
        {"class": TensorSpec(datatype="FP32", shape=(-1, 1000))},
    )


def constant(name: str, values: np.ndarray) -> onnx.TensorProto:
    return numpy_helper.from_array(values.astype(np.float32), name)


def value(name: str, kind: int, shape: list[str | int]) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def save(
    folder: Path,
    nodes: list[onnx.NodeProto],
    weights: list[onnx.TensorProto],
    inputs: list[onnx.ValueInfoProto],
    outputs: list[onnx.ValueInfoProto],
) -> None:
    graph = helper.make_graph(nodes, folder.name, inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(model)
    folder.mkdir(parents=True, exist_ok=True)
    onnx.save(model, folder / "model.onnx")


if __name__ == "__main__":
    main(Path(sys.argv[1] if len(sys.argv) > 1 else ".") / "models")
