"""Whose fault an engine's error is: what real engines raise for real models, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from modelway_runtime.serving.backends import architecture, fault, onnx_backend, torch_backend
from modelway_runtime.serving.errors import InferenceError
from modelway_runtime.settings import Device, TensorSpec
from tests.runtime.core.onnx_models import served
from tests.support import serving

CPU = Device(providers=("cpu",), allow_cpu=False, threads=1, options={})
F, N, S = TensorProto.FLOAT, TensorProto.INT64, TensorProto.STRING
OPEN = ("rows", "columns")


def onnx_model(
    operator: str,
    *inputs: tuple[str, int, tuple[Any, ...]],
    weights: dict[str, Any] | None = None,
    **more: Any,
) -> onnx.ModelProto:
    """One operator: its inputs are those of the request, then the weights (or in the order of ``order``)."""
    weights = weights or {}
    order = more.pop("order", [*(name for name, *_ in inputs), *weights])
    outputs = more.pop("outputs", 1)
    names = ["y", *(f"unused{n}" for n in range(1, outputs))]
    graph = helper.make_graph(
        [helper.make_node(operator, order, names, **more)],
        "one",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info("y", F, None)],
        [numpy_helper.from_array(np.asarray(array), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 19)])


TABLE = {"table": np.zeros(4, np.float32)}
PAIR = (("a", F, OPEN), ("b", F, ("others", "more")))
PICTURE = ("x", F, ("rows", 1, "height", "width"))
SMALL = {"x": np.zeros((1, 1, 2, 2), np.float32)}
UNEQUAL = {"a": np.zeros((2, 3), np.float32), "b": np.zeros((4, 4), np.float32)}
PLACE = {"x": np.array([[9]])}
OF_REQUESTS: dict[str, tuple[onnx.ModelProto, dict[str, Any]]] = {
    "place": (onnx_model("Gather", ("x", N, ("rows", 1)), weights=TABLE, order=["table", "x"]), PLACE),
    "place-nd": (onnx_model("GatherND", ("x", N, ("rows", 1)), weights=TABLE, order=["table", "x"]), PLACE),
    "place-of-element": (
        onnx_model("GatherElements", ("x", N, ("rows",)), weights=TABLE, order=["table", "x"]),
        {"x": np.array([9])},
    ),
    "text": (onnx_model("Cast", ("x", S, ("rows",)), to=F), {"x": np.array([b"abc"], object)}),
    "too-many": (
        onnx_model("TopK", ("x", F, OPEN), ("k", N, (1,)), outputs=2),
        {"x": np.zeros((1, 2), np.float32), "k": np.array([5])},
    ),
    "depth": (
        onnx_model("OneHot", ("x", N, ("rows",)), ("d", N, ()), weights={"v": np.zeros(2, np.float32)}),
        {"x": np.array([1]), "d": np.array(-1)},
    ),
    "broadcast": (onnx_model("Add", *PAIR), UNEQUAL),
    "product": (onnx_model("MatMul", *PAIR), UNEQUAL),
    "gemm": (onnx_model("Gemm", *PAIR), UNEQUAL),
    "beside": (onnx_model("Concat", *PAIR, axis=0), UNEQUAL),
    "shape": (
        onnx_model("Reshape", ("x", F, OPEN), weights={"s": np.array([1, 2])}),
        {"x": np.zeros((2, 3), np.float32)},
    ),
    "split": (
        onnx_model("Split", ("x", F, OPEN), ("k", N, (2,)), outputs=2),
        {"x": np.zeros((3, 2), np.float32), "k": np.array([1, 1])},
    ),
    "squeeze": (
        onnx_model("Squeeze", ("x", F, OPEN), weights={"axes": np.array([1])}),
        {"x": np.zeros((3, 2), np.float32)},
    ),
    "pool": (onnx_model("MaxPool", PICTURE, kernel_shape=[5, 5]), SMALL),
    "filter": (onnx_model("Conv", PICTURE, weights={"w": np.zeros((1, 1, 5, 5), np.float32)}), SMALL),
}


def loaded(folder: Path, model: onnx.ModelProto) -> onnx_backend.OnnxModel:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return onnx_backend.load(path, served(path), CPU)


@pytest.mark.parametrize("name", OF_REQUESTS)
def test_what_onnxruntime_refuses_is_the_requests_fault(tmp_path: Path, name: str) -> None:
    model, inputs = OF_REQUESTS[name]
    with pytest.raises(InferenceError, match="the model cannot compute these inputs") as raised:
        loaded(tmp_path, model).run(inputs, ("y",))
    assert raised.value.status == 400
    assert "/" not in raised.value.message  # no file of the engine


def test_every_phrase_is_what_onnxruntime_says(tmp_path: Path) -> None:
    """One that it says no more would make requests' faults the model's."""
    texts = []
    for model, inputs in OF_REQUESTS.values():
        with pytest.raises(InferenceError) as raised:
            loaded(tmp_path, model).run(inputs, ("y",))
        texts.append(str(raised.value.__cause__))
    for phrase in (*onnx_backend._BAD_VALUES, *onnx_backend._BAD_SIZES):
        assert any(phrase in text for text in texts), phrase


def test_memory_that_is_not_there_is_not_the_requests_fault(tmp_path: Path) -> None:
    with pytest.raises(Exception, match="Failed to allocate memory") as raised:
        loaded(tmp_path, serving.greedy()).run({"x": np.array([[9]])}, ("y",))
    assert not isinstance(raised.value, InferenceError)


def test_a_model_that_fails_for_a_number_of_rows_is_at_fault_itself(tmp_path: Path) -> None:
    """A request decides nothing here but how many rows it sends."""
    model = onnx_model("Reshape", ("x", F, ("rows", 2)), weights={"s": np.array([1, 2])})
    with pytest.raises(Exception, match="cannot be reshaped") as raised:
        loaded(tmp_path, model).run({"x": np.zeros((2, 2), np.float32)}, ("y",))
    assert not isinstance(raised.value, InferenceError)


ROW = np.zeros((1, 3), np.float32)
OF_LAYERS: dict[str, tuple[list[nn.Module], tuple[int, ...], np.ndarray]] = {
    "place": ([nn.Embedding(4, 2)], (-1,), np.array([9])),
    "product": ([nn.Linear(4, 2)], (-1, -1), ROW),
    "channels": ([nn.Conv1d(3, 1, 2)], (-1, -1, 8), np.zeros((1, 2, 8), np.float32)),
    "filter": ([nn.Conv2d(1, 1, 5)], (-1, 1, -1, -1), SMALL["x"]),
    "pool": ([nn.MaxPool2d(5)], (-1, 1, -1, -1), SMALL["x"]),
    "unflatten": ([nn.Unflatten(1, (2, 2))], (-1, -1), ROW),
    "batch-norm": ([nn.BatchNorm1d(4)], (-1, -1), ROW),
    "slopes": ([nn.PReLU(4)], (-1, -1), ROW),
}


def torch_model(path: Path, layers: list[nn.Module], shape: tuple[int, ...], whole: bool) -> Any:
    spec = TensorSpec(datatype="INT64" if whole else "FP32", shape=shape)
    rest = TensorSpec(datatype="FP32", shape=(-1,))
    architecture.save(nn.Sequential(*layers).eval(), path, {"x": spec}, {"y": rest})
    return torch_backend.load(path, served(path, format="torch"), CPU, trusted=False)


@pytest.mark.parametrize("name", OF_LAYERS)
def test_what_torch_refuses_is_the_requests_fault(tmp_path: Path, name: str) -> None:
    layers, shape, x = OF_LAYERS[name]
    model = torch_model(tmp_path / "m.safetensors", layers, shape, x.dtype.kind == "i")
    with pytest.raises(InferenceError, match="the model cannot compute these inputs") as raised:
        model.run({"x": x}, ("y",))
    assert raised.value.status == 400


class Picked(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.zeros(4)[x]


class Added(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.ones(3)


def programs() -> list[tuple[Any, torch.Tensor]]:
    """TorchScript and exported programs, which say the same in other classes; each with what it refuses."""
    place, rows = torch.tensor([1, 2]), torch.zeros(2, 3)
    auto = torch.export.Dim.AUTO
    exported = torch.export.export(Added(), (rows,), dynamic_shapes=({0: auto, 1: auto},)).module()
    return [
        (torch.jit.trace(Picked(), place), torch.tensor([9])),
        (torch.jit.trace(nn.Embedding(4, 2), place), torch.tensor([9])),
        (torch.jit.trace(Added(), rows), torch.zeros(2, 4)),
        (exported, torch.zeros(2, 4)),
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript is old, and still served
def test_every_phrase_is_what_torch_says(tmp_path: Path) -> None:
    texts = []
    for program, x in programs():
        with pytest.raises((RuntimeError, AssertionError)) as raised:
            program(x)
        assert fault.says(raised.value, torch_backend._BAD_VALUES, torch_backend._BAD_SIZES)
        texts.append(str(raised.value))
    for index, (layers, shape, x) in enumerate(OF_LAYERS.values()):
        model = torch_model(tmp_path / f"{index}.safetensors", layers, shape, x.dtype.kind == "i")
        with pytest.raises(InferenceError) as refused:
            model.run({"x": x}, ("y",))
        texts.append(str(refused.value.__cause__))
    for phrase in (*torch_backend._BAD_VALUES, *torch_backend._BAD_SIZES):
        assert any(phrase in text for text in texts), phrase


def test_torch_without_memory_is_not_the_requests_fault() -> None:
    with pytest.raises(RuntimeError) as raised:
        torch.zeros(10**15)
    assert not fault.says(raised.value, torch_backend._BAD_VALUES, torch_backend._BAD_SIZES)


def test_an_engines_text_is_shown_only_where_it_is_plain() -> None:
    assert fault.of_request("idx=9").message.endswith(": idx=9")
    for text in ("", "/onnxruntime_src/x.cc:1", "a\nb", "é", "x" * 201):
        assert fault.of_request(text).message == "the model cannot compute these inputs"
