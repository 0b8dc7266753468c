"""The part of ``make demo`` that serves: a model trained on handwritten digits, a request, its metrics."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SHADES = " .:-=+*#%@"
SHOWN = ("inference_requests_total", "inference_output_class_total", "model_ready", "model_info")
Trained = tuple[np.ndarray, np.ndarray]


def main() -> tuple[np.ndarray, Trained]:
    """Pictures, and what was learned from them."""
    from sklearn.datasets import load_digits

    images, digits = load_digits(return_X_y=True)
    images = (images / 16).astype(np.float32)
    started = time.monotonic()
    weights, bias = train(images[:1400], digits[:1400])
    print(f"  trained on 1,400 of scikit-learn's digits in {time.monotonic() - started:.1f} s")
    with tempfile.TemporaryDirectory(prefix="modelway-demo-") as folder:
        save(Path(folder) / "digits" / "1" / "model.onnx", weights, bias)
        command = ["serve", "--model-repository", folder, "--log-format", "text"]
        print("\n$ modelway-runtime " + " ".join(part if part != folder else "DIR" for part in command))
        with server(command) as ports:
            show(ports, images[1400:], digits[1400:])
    return images, (weights, bias)


def train(images: np.ndarray, digits: np.ndarray) -> Trained:
    """Multinomial logistic regression by gradient descent."""
    weights, bias = np.zeros((64, 10), np.float32), np.zeros(10, np.float32)
    wanted = np.eye(10, dtype=np.float32)[digits]
    for _ in range(400):
        scores = np.exp(images @ weights + bias)
        error = (scores / scores.sum(axis=1, keepdims=True) - wanted) / len(images)
        weights -= 10 * images.T @ error
        bias -= 10 * error.sum(axis=0)
    return weights, bias


def save(path: Path, weights: np.ndarray, bias: np.ndarray) -> None:
    nodes = [
        helper.make_node("Gemm", ["pixels", "weights", "bias"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["digit"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "digits",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["rows", 64])],
        [helper.make_tensor_value_info("digit", TensorProto.FLOAT, ["rows", 10])],
        [numpy_helper.from_array(weights, "weights"), numpy_helper.from_array(bias, "bias")],
    )
    path.parent.mkdir(parents=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)


@contextmanager
def server(command: list[str]) -> Iterator[dict[str, int]]:
    """The real server on free ports, ended by its process id."""
    program = str(Path(sys.executable).with_name("modelway-runtime"))
    free = ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]
    with subprocess.Popen([program, *command, *free], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            ports: dict[str, int] = {}
            for line in process.stderr:
                if line.startswith('{"listening"'):
                    ports = json.loads(line)["listening"]
                else:
                    print(f"  {line}", end="")
                if line.rstrip().endswith(" ready"):
                    break
            yield ports
        finally:
            process.terminate()
            process.wait(30)


def show(ports: dict[str, int], images: np.ndarray, digits: np.ndarray) -> None:
    url = f"http://127.0.0.1:{ports['http']}/v2/models/digits/infer"
    tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 64], "data": images[0].round(3).tolist()}
    print("\n$ curl -d @digit.json /v2/models/digits/infer      # this picture, as 64 numbers")
    for row in images[0].reshape(8, 8):
        print("    " + "".join(SHADES[int(shade * 9)] * 2 for shade in row))
    answer = post(url, {"inputs": [tensor]})
    scores = answer["outputs"][0]["data"]
    print(f"  -> {int(np.argmax(scores))} with {max(scores):.0%}; it is a {digits[0]}")
    tensor = {**tensor, "shape": [len(images), 64], "data": images.ravel().tolist()}
    scores = np.array(post(url, {"inputs": [tensor]})["outputs"][0]["data"]).reshape(-1, 10)
    right = float((scores.argmax(axis=1) == digits).mean())
    print(f"  -> the {len(images)} pictures that it has not seen, in one request: {right:.1%} right")
    print("\n$ curl /metrics      # what the compiled rules, gates and dashboards read")
    with urllib.request.urlopen(f"http://127.0.0.1:{ports['metrics']}/metrics") as page:
        for line in page.read().decode().splitlines():
            if line.startswith(SHOWN):
                print(f"  {line}")


def post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode())) as answer:
        return dict(json.load(answer))


if __name__ == "__main__":
    main()
