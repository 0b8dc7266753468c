"""The models that are served, made here with seeded weights, and the requests for them in every form."""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ["ORT_DISABLE_TELEMETRY"] = "1"  # before the engine is imported, here or in a process of ours

import numpy as np
import onnx
import onnxruntime
from load import Request
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Array = NDArray[Any]
SEED = 20261121
INFER = "/v2/models/{}/infer"
GRPC_INFER = "/inference.GRPCInferenceService/ModelInfer"


@dataclass(frozen=True, slots=True)
class Model:
    """A model in a file. ``row`` is one request's input; ``expected`` is onnxruntime's answer to it."""

    name: str
    what: str
    path: Path
    row: Array
    expected: Array


class _Graph:
    """Layers one after the other, from ``input`` to ``output``."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []

    def add(self, kind: str, *weights: Array, **attributes: Any) -> None:
        number = len(self._nodes)
        names = [f"w{number}_{index}" for index in range(len(weights))]
        self._weights += map(numpy_helper.from_array, weights, names)
        source = f"x{number - 1}" if number else "input"
        self._nodes.append(helper.make_node(kind, [source, *names], [f"x{number}"], **attributes))

    def dense(self, inputs: int, outputs: int) -> None:
        self.add("Gemm", self._noise((inputs, outputs), inputs), np.zeros(outputs, np.float32))

    def convolution(self, inputs: int, outputs: int) -> None:
        weights = self._noise((outputs, inputs, 3, 3), inputs * 9)
        self.add("Conv", weights, np.zeros(outputs, np.float32), kernel_shape=[3, 3], pads=[1, 1, 1, 1])
        self.add("Relu")

    def save(self, path: Path, inputs: Sequence[int], outputs: int) -> None:
        self._nodes[-1].output[0] = "output"
        graph = helper.make_graph(
            self._nodes,
            path.stem,
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", *inputs])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", outputs])],
            self._weights,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
        onnx.save(made, path)

    def _noise(self, shape: tuple[int, ...], fan_in: int) -> Array:
        return self._rng.normal(0, fan_in**-0.5, shape).astype(np.float32)


def make_mlp(folder: Path) -> Model:
    """64 → 128 → 64 → 1: the server is the cost."""
    rng = np.random.default_rng(SEED)
    graph = _Graph(rng)
    for inputs, outputs in ((64, 128), (128, 64), (64, 1)):
        graph.dense(inputs, outputs)
        graph.add("Sigmoid" if outputs == 1 else "Relu")
    graph.save(folder / "mlp.onnx", [64], 1)
    return _model("mlp", "MLP, 64 numbers to 1", folder, rng.normal(0, 1, (1, 64)))


def make_cnn(folder: Path) -> Model:
    """3×32×32 → 10 with about a million parameters: the model is the cost."""
    rng = np.random.default_rng(SEED)
    graph = _Graph(rng)
    channels = 3
    for wider in (32, 64, 128):
        graph.convolution(channels, wider)
        graph.convolution(wider, wider)
        graph.add("MaxPool", kernel_shape=[2, 2], strides=[2, 2])
        channels = wider
    graph.add("Flatten")
    graph.dense(2048, 340)
    graph.add("Relu")
    graph.dense(340, 10)
    graph.save(folder / "cnn.onnx", [3, 32, 32], 10)
    return _model("cnn", "CNN, 3×32×32 numbers to 10", folder, rng.normal(0, 1, (1, 3, 32, 32)))


MODELS = {"mlp": make_mlp, "cnn": make_cnn}


def write_big(path: Path, megabytes: int = 200) -> None:
    """Layers of 2048×2048 numbers, 16.8 MB each."""
    graph = _Graph(np.random.default_rng(SEED))
    for _ in range(max(1, round(megabytes * 1e6 / (2048 * 2048 * 4)))):
        graph.dense(2048, 2048)
    graph.save(path, [2048], 2048)


def write_exact(path: Path, seed: int, hidden: int = 1024) -> None:
    """64 → ``hidden`` → 1 of small whole numbers: the answer is exact, in whatever order it is added up."""
    rng = np.random.default_rng(seed)
    graph = _Graph(rng)
    for inputs, outputs in ((64, hidden), (hidden, 1)):
        weights = rng.integers(-2, 3, (inputs, outputs)).astype(np.float32)
        graph.add("Gemm", weights, np.zeros(outputs, np.float32))
        if outputs > 1:
            graph.add("Relu")
    graph.save(path, [64], 1)


def whole_numbers() -> Array:
    """One row for ``write_exact``'s models."""
    return np.random.default_rng(SEED).integers(-3, 4, (1, 64)).astype(np.float32)


def session(path: Path, threads: int = 1) -> onnxruntime.InferenceSession:
    """The model in onnxruntime alone."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def answer(path: Path, rows: Array) -> Array:
    """What onnxruntime says."""
    result: Array = session(path).run(["output"], {"input": rows})[0]
    return result


def _model(name: str, what: str, folder: Path, row: Array) -> Model:
    path, row = folder / f"{name}.onnx", row.round(6).astype(np.float32)
    return Model(name, what, path, row, answer(path, row))


def requests(model: str, rows: Array, folder: Path) -> dict[str, Request]:
    """A request with ``rows`` in each form: the protocol's three, and those that peers have instead."""
    folder.mkdir(exist_ok=True)
    tensor = {"name": "input", "shape": list(rows.shape), "datatype": "FP32"}
    numbers = [round(float(value), 6) for value in rows.ravel()]
    plain = _json({"inputs": [{**tensor, "data": numbers}]})
    sized = {**tensor, "parameters": {"binary_data_size": rows.nbytes}}
    wanted = {"name": "output", "parameters": {"binary_data": True}}
    head = _json({"inputs": [sized], "outputs": [wanted]})
    nested = _json({"rows": [[round(float(v), 6) for v in row.ravel()] for row in rows]})
    bodies = {
        "json": plain,
        "binary": head + rows.tobytes(),
        "grpc": _grpc(model, rows),
        "plain": rows.tobytes(),
        "nested": nested,
    }
    for name, body in bodies.items():
        (folder / f"{model}.{name}").write_bytes(body)

    def one(path: str, body: str, grpc: bool = False, **more: str) -> Request:
        kind = {"grpc": "grpc", "json": "json", "nested": "json"}.get(body, "octet-stream")
        headers = {"content-type": f"application/{kind}"}
        headers.update({name.replace("_", "-"): value for name, value in more.items()})
        return Request(path.format(model), folder / f"{model}.{body}", headers, grpc)

    return {
        "json": one(INFER, "json"),
        "binary": one(INFER, "binary", inference_header_content_length=str(len(head))),
        "grpc": one(GRPC_INFER, "grpc", grpc=True, te="trailers"),
        "plain": one("/plain", "plain"),
        "nested": one("/infer", "nested"),
        "predictions-json": one("/predictions/{}", "json"),
        "predictions-plain": one("/predictions/{}", "plain"),
    }


def _json(value: Any) -> bytes:
    return json.dumps(value, separators=(",", ":")).encode()


def _grpc(model: str, rows: Array) -> bytes:
    """A ModelInferRequest with raw contents, behind gRPC's five bytes."""
    shape = b"".join(map(_varint, rows.shape))
    tensor = _field(1, b"input") + _field(2, b"FP32") + _field(3, shape)
    message = _field(1, model.encode()) + _field(5, tensor) + _field(7, rows.tobytes())
    return struct.pack(">BI", 0, len(message)) + message


def _field(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    groups = []
    while value > 0x7F:
        groups.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*groups, value])
