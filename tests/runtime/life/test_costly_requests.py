"""What a request holds may decide how long it computes: nobody else waits for it, nor does the end."""

from __future__ import annotations

import contextlib
import http.client
import json
import threading
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from tests.support import serving

LEARNT = 40
"""Requests that take microseconds, which teach the server that such are cheap."""


def looping() -> onnx.ModelProto:
    """``y`` is ``x`` (FP32 [rows, 1]); a product of matrices is computed as often as the largest ``x`` says."""
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "matrix"], ["product"]),
            helper.make_node("Tanh", ["product"], ["next"]),
            helper.make_node("Identity", ["going"], ["goes_on"]),
        ],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, ()),
            helper.make_tensor_value_info("going", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, (256, 256)),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, ()),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, (256, 256)),
        ],
    )
    return serving.Graph(
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("rows", 1))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("rows", 1))],
        [
            helper.make_node("ReduceMax", ["x"], ["most"], keepdims=0),
            helper.make_node("Cast", ["most"], ["trips"], to=TensorProto.INT64),
            helper.make_node("Loop", ["trips", "", "matrix"], ["end"], body=body),
            helper.make_node("ReduceMean", ["end"], ["level"], keepdims=0),
            helper.make_node("Mul", ["level", "nothing"], ["zero"]),
            helper.make_node("Add", ["x", "zero"], ["y"]),
        ],
        {
            "matrix": np.random.default_rng(1).standard_normal((256, 256)).astype(np.float32) / 16,
            "nothing": np.array(0, np.float32),
        },
    ).model()


def squaring() -> onnx.ModelProto:
    """``y`` [rows, 1] of ``x`` [rows, any]: rows apart, but the square of their length in numbers, many times."""
    nodes = [
        helper.make_node("Unsqueeze", ["x", "last"], ["column"]),
        helper.make_node("Unsqueeze", ["x", "middle"], ["line"]),
        helper.make_node("Mul", ["column", "line"], ["t0"]),
        *(helper.make_node("Sin", [f"t{n}"], [f"t{n + 1}"]) for n in range(60)),
        helper.make_node("ReduceMean", ["t60", "both"], ["y"], keepdims=0),
    ]
    return serving.Graph(
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ("rows", "length"))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ("rows",))],
        nodes,
        {"last": np.array([2]), "middle": np.array([1]), "both": np.array([1, 2])},
    ).model()


def fixed() -> onnx.ModelProto:
    """Every size is fixed, and a number decides how often it loops."""
    model = looping()
    for tensor in (*model.graph.input, *model.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 1
    onnx.checker.check_model(model)
    return model


KINDS = {
    "a-loop": (looping, [0.0], [1e6]),
    "a-loop-of-fixed-sizes": (fixed, [0.0], [1e6]),
    "a-size": (squaring, [1.0] * 2, [1.0] * 12_000),
}


@pytest.mark.parametrize(
    ("kind", "rows"),
    [
        ("a-loop", None),
        ("a-loop", "first"),
        ("a-loop-of-fixed-sizes", None),
        ("a-size", None),
        ("a-size", "first"),
    ],
)
def test_health_is_answered_and_sigterm_obeyed_while_one_request_computes(
    tmp_path: Path, kind: str, rows: str | None
) -> None:
    make, cheap, costly = KINDS[kind]
    weights = serving.write_model(tmp_path, "costly", make())
    entry = serving.served("costly", weights, rows=rows, queue={"max_rows": 99, "timeout_ms": 600_000})
    with serving.serving_settings(serving.settings_of([entry], drain_s=1)) as server:
        with connected(server) as connection:
            for _ in range(LEARNT):
                assert infer(connection, cheap) == 200
        sender = threading.Thread(target=send, args=(server, costly), daemon=True)
        sender.start()
        time.sleep(0.5)
        for _ in range(3):
            started = time.monotonic()
            assert server.ask("GET", "/v2/health/live").status == 200
            assert time.monotonic() - started < 5  # a busy machine; the request takes minutes
        assert sender.is_alive()
        started = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - started < 15


def infer(connection: http.client.HTTPConnection, x: list[float]) -> int:
    tensor = {"name": "x", "datatype": "FP32", "shape": [1, len(x)], "data": x}
    connection.request("POST", "/v2/models/costly/infer", json.dumps({"inputs": [tensor]}))
    return serving.read_answer(connection).status


def send(server: serving.Server, x: list[float]) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException), connected(server) as connection:
        infer(connection, x)


def connected(server: serving.Server) -> contextlib.closing[http.client.HTTPConnection]:
    return contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=120))
