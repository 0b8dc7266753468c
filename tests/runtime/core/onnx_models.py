"""Small ONNX models for the core's tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from modelway_runtime.settings import Batching, Cache, Queue, Served, WarmUp


def scale(path: Path, factor: float) -> Path:
    """``y = factor * x`` over rows of two."""
    node = helper.make_node("Mul", ["x", "factor"], ["y"])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", 2]) for n in ("x", "y"))
    weights = [numpy_helper.from_array(np.float32([factor]), "factor")]
    graph = helper.make_graph([node], "scale", [x], [y], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def reshaping(path: Path) -> Path:
    """Declares any number of rows of two, and answers one row of two or nothing."""
    shape = numpy_helper.from_array(np.array([1, 2], np.int64), "shape")
    node = helper.make_node("Reshape", ["x", "shape"], ["y"])
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, ["rows", 2]) for n in ("x", "y"))
    model = helper.make_model(
        helper.make_graph([node], "reshaping", [x], [y], [shape]),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, path)
    return path


def served(path: Path, **changes: object) -> Served:
    fields: dict[str, object] = {
        "name": "scale",
        "version": "1",
        "source": f"file://{path}",
        "format": "onnx",
        "digest": None,
        "lineage_digest": None,
        "inputs": {},
        "outputs": {},
        "rows": None,
        "instances": 1,
        "warm_up": WarmUp(rows=(1,)),
        "batching": Batching(max_rows=8, max_delay_ms=0, preferred_rows=()),
        "queue": Queue(max_rows=64, timeout_ms=5000),
        "cache": Cache(max_bytes=0, ttl_s=0),
    }
    return Served(**{**fields, **changes})  # type: ignore[arg-type]
