"""The real server as a process, a plain HTTP client for it, and small ONNX models to serve.

write_model(folder, "mlp", mlp())
with serving_folder(folder) as server:
    answer = server.ask("POST", "/v2/models/mlp/infer", {"inputs": […]})
"""

from __future__ import annotations

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

Json = dict[str, Any]
Shape = Sequence[int | str]
RUNTIME = Path(__file__).resolve().parents[2] / "runtime"
STARTS_IN_S = 60.0
"""How long a server may take until it is ready; much more than it needs, for a busy machine."""


@dataclass(frozen=True)
class Answer:
    """What the server said. Names of headers are in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True)
class Server:
    """A running server. ``grpc_port`` is None where that protocol is off."""

    process: subprocess.Popen[bytes]
    http_port: int
    grpc_port: int | None
    metrics_port: int
    log_file: Path
    scheme: str = "http"

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def http(self) -> str:
        return f"{self.scheme}://127.0.0.1:{self.http_port}"

    @property
    def grpc(self) -> str:
        assert self.grpc_port is not None, "gRPC is off"
        return f"127.0.0.1:{self.grpc_port}"

    @property
    def metrics(self) -> str:
        return f"http://127.0.0.1:{self.metrics_port}/metrics"

    def log(self) -> str:
        """All that it has written to standard error."""
        return self.log_file.read_text()

    def ask(
        self,
        method: str,
        path: str,
        body: bytes | Json | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request on a connection of its own; a dictionary is sent as JSON. Without TLS."""
        return ask(self.http_port, method, path, body, headers)

    def metric(self, name: str, **labels: str) -> float:
        """Sum of the samples of a metric that have these labels; 0.0 where there is none."""
        text = ask(self.metrics_port, "GET", "/metrics").body.decode()
        return sum(
            float(value)
            for found, inside, value in _SAMPLE.findall(text)
            if found == name and labels.items() <= dict(_LABEL.findall(inside)).items()
        )

    def stop(self, number: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """End it by a signal to its pid and return its exit code; kill it when that takes too long."""
        if self.process.poll() is None:
            self.process.send_signal(number)
            try:
                self.process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
                raise
        return self.process.returncode


_SAMPLE = re.compile(r"^([a-zA-Z_:]+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_LABEL = re.compile(r'(\w+)="((?:[^"\\]|\\.)*)"')


def ask(
    port: int,
    method: str,
    path: str,
    body: bytes | Json | None = None,
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """One request to a port of 127.0.0.1."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        data = json.dumps(body).encode() if isinstance(body, dict) else body
        connection.request(method, path, data, dict(headers or {}))
        return read_answer(connection)
    finally:
        connection.close()


def read_answer(connection: http.client.HTTPConnection) -> Answer:
    """The answer to the request that was just sent on a connection."""
    response = connection.getresponse()
    named = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, named, response.read())


@contextmanager
def serving_folder(folder: Path, *options: str, ready: bool = True) -> Iterator[Server]:
    """A server of a model repository."""
    with _serving("--model-repository", str(folder), *options, ready=ready) as server:
        yield server


@contextmanager
def serving_settings(
    settings: Json,
    *options: str,
    environment: Mapping[str, str] | None = None,
    ready: bool = True,
    scheme: str = "http",
) -> Iterator[Server]:
    """A server with these settings on 127.0.0.1. With ``scheme="https"`` readiness is not awaited."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "settings.json"
        file.write_text(json.dumps(settings))
        arguments = ("--settings", str(file), "--host", "127.0.0.1", *options)
        with _serving(*arguments, environment=environment, ready=ready, scheme=scheme) as server:
            yield server


@contextmanager
def _serving(
    *arguments: str,
    environment: Mapping[str, str] | None = None,
    ready: bool,
    scheme: str = "http",
) -> Iterator[Server]:
    """Standard error goes to a file; standard output (the audit log) to another beside it."""
    path = os.pathsep.join(filter(None, (str(RUNTIME), os.environ.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "stderr"
        with open(log, "wb") as errors, open(Path(folder) / "stdout", "wb") as output:
            command = [sys.executable, "-m", "modelway_runtime", "serve", *arguments, *_free_ports(arguments)]
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": path, **(environment or {})},
            )
        try:
            ports = _ports(process, log)
            server = Server(process, ports["http"], ports["grpc"], ports["metrics"], log, scheme)
            if ready and scheme == "http":
                wait_until_ready(server)
            yield server
        finally:
            finish(process)


def finish(process: subprocess.Popen[bytes]) -> None:
    """By SIGTERM; killed if that does not do."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _free_ports(arguments: Sequence[str]) -> list[str]:
    """Ports of settings are those of the settings; the helpers below set them to 0."""
    if "--settings" in arguments:
        return []
    return ["--http-port", "0", "--grpc-port", "0", "--metrics-port", "0"]


def _ports(process: subprocess.Popen[bytes], log: Path) -> Json:
    """The ports that the server announces. Raises AssertionError with its log when it ends instead."""
    end = time.monotonic() + STARTS_IN_S
    while time.monotonic() < end:
        for line in log.read_text().splitlines(keepends=True):
            if line.startswith('{"listening"') and line.endswith("\n"):
                return dict(json.loads(line)["listening"])
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise AssertionError(f"the server did not start (exit code {process.poll()}):\n{log.read_text()}")


def wait_until_ready(server: Server, timeout_s: float = STARTS_IN_S) -> None:
    """Until /v2/health/ready answers 200. Raises AssertionError with the server's log."""
    end = time.monotonic() + timeout_s
    while time.monotonic() < end and server.process.poll() is None:
        if server.ask("GET", "/v2/health/ready").status == 200:
            return
        time.sleep(0.02)
    raise AssertionError(f"the server did not become ready:\n{server.log()}")


# Settings


def served(name: str, weights: Path, **changes: Any) -> Json:
    """One served model of the settings."""
    return {
        "name": name,
        "version": "1",
        "source": weights.resolve().as_uri(),
        "format": "onnx",
        "digest": None,
        "lineage_digest": None,
        "inputs": {},
        "outputs": {},
        "rows": None,
        "instances": 1,
        "warm_up": {"rows": [1]},
        "batching": {"max_rows": 32, "max_delay_ms": 0, "preferred_rows": []},
        "queue": {"max_rows": 1024, "timeout_ms": 30_000},
        "cache": {"max_bytes": 0, "ttl_s": 0},
        **changes,
    }


def settings_of(models: Sequence[Json], **changes: Any) -> Json:
    """Settings on free ports, without authentication; the first model is the Deployment's own."""
    return {
        "schema": 1,
        "environment": "test",
        "team": "tests",
        "model": models[0]["name"],
        "served": list(models),
        "standby": None,
        "device": {"providers": ["cpu"], "allow_cpu": False, "threads": 1, "options": {}},
        "http": {"port": 0},
        "grpc": {"port": 0},
        "metrics": {"port": 0, "latency_buckets_s": [0.005, 0.05, 0.5, 5.0]},
        "limits": {"request_bytes": 2**24, "in_flight": 256},
        "auth": {"mode": "none"},
        "tls": None,
        "audit": {"enabled": False, "mask": []},
        "drain_s": 1,
        **changes,
    }


# Models

ELEMENTS = {
    "BOOL": TensorProto.BOOL,
    "UINT8": TensorProto.UINT8,
    "UINT16": TensorProto.UINT16,
    "UINT32": TensorProto.UINT32,
    "UINT64": TensorProto.UINT64,
    "INT8": TensorProto.INT8,
    "INT16": TensorProto.INT16,
    "INT32": TensorProto.INT32,
    "INT64": TensorProto.INT64,
    "FP16": TensorProto.FLOAT16,
    "FP32": TensorProto.FLOAT,
    "FP64": TensorProto.DOUBLE,
    "BF16": TensorProto.BFLOAT16,
    "BYTES": TensorProto.STRING,
}
"""ONNX's element type of each datatype of the protocol."""
MLP_INPUTS = 64


@dataclass
class Graph:
    """What a model is made of; the parts are in the order in which they are computed."""

    inputs: list[onnx.ValueInfoProto]
    outputs: list[onnx.ValueInfoProto]
    nodes: list[onnx.NodeProto]
    weights: dict[str, NDArray[Any]] = field(default_factory=dict)

    def model(self) -> onnx.ModelProto:
        stored = [numpy_helper.from_array(array, name) for name, array in self.weights.items()]
        graph = helper.make_graph(self.nodes, "graph", self.inputs, self.outputs, stored)
        # Versions that every onnxruntime of the last years reads.
        made = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 19)])
        onnx.checker.check_model(made)
        return made


def write_model(
    folder: Path, name: str, model: onnx.ModelProto, *, version: str = "1", **options: Any
) -> Path:
    """Put a model into a repository; ``options`` are fields of its ``model.json``. The weights' path."""
    weights = folder / name / version / "model.onnx"
    weights.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(model, weights)
    if options:
        (folder / name / "model.json").write_text(json.dumps(options))
    return weights


def mlp(seed: int = 0) -> onnx.ModelProto:
    """``output`` [rows, 1] of ``input`` [rows, 64]: two layers. ``mlp_answer`` computes the same."""
    first, second = _mlp_weights(seed)
    return Graph(
        [_tensor("input", "FP32", ("rows", MLP_INPUTS))],
        [_tensor("output", "FP32", ("rows", 1))],
        [
            helper.make_node("MatMul", ["input", "first"], ["hidden"]),
            helper.make_node("Relu", ["hidden"], ["positive"]),
            helper.make_node("MatMul", ["positive", "second"], ["output"]),
        ],
        {"first": first, "second": second},
    ).model()


def mlp_answer(x: NDArray[Any], seed: int = 0) -> NDArray[Any]:
    """What ``mlp`` computes, by numpy."""
    first, second = _mlp_weights(seed)
    return np.asarray(np.maximum(x @ first, 0) @ second)


def _mlp_weights(seed: int) -> tuple[NDArray[Any], NDArray[Any]]:
    random = np.random.default_rng(seed)
    return (
        random.standard_normal((MLP_INPUTS, 32), np.float32) / 8,
        random.standard_normal((32, 1), np.float32) / 8,
    )


def identity(datatype: str, shape: Shape = ("rows", "columns")) -> onnx.ModelProto:
    """``y`` is ``x``. A size that is a text is any; ``()`` is a scalar."""
    return Graph(
        [_tensor("x", datatype, shape)],
        [_tensor("y", datatype, shape)],
        [helper.make_node("Identity", ["x"], ["y"])],
    ).model()


def row_sums() -> onnx.ModelProto:
    """``y`` [rows, 1] sums ``x`` [rows, any]: a second dimension that requests decide."""
    return Graph(
        [_tensor("x", "FP32", ("rows", "columns"))],
        [_tensor("y", "FP32", ("rows", 1))],
        [helper.make_node("ReduceSum", ["x", "axes"], ["y"], keepdims=1)],
        {"axes": np.array([1])},
    ).model()


def without_rows() -> onnx.ModelProto:
    """``y`` [2, 3] is ``x`` [2, 3] twice: no dimension of rows, so nothing to batch."""
    return Graph(
        [_tensor("x", "FP32", (2, 3))],
        [_tensor("y", "FP32", (2, 3))],
        [helper.make_node("Add", ["x", "x"], ["y"])],
    ).model()


def two_of_two() -> onnx.ModelProto:
    """``sum`` and ``difference`` of ``a`` and ``b``, all FP32 [rows, 2]."""
    names = ("a", "b", "sum", "difference")
    tensors = [_tensor(name, "FP32", ("rows", 2)) for name in names]
    return Graph(
        tensors[:2],
        tensors[2:],
        [
            helper.make_node("Add", ["a", "b"], ["sum"]),
            helper.make_node("Sub", ["a", "b"], ["difference"]),
        ],
    ).model()


def wide_interface(inputs: int) -> onnx.ModelProto:
    """``sum`` of so many inputs with long names, all FP32 [rows, 512]."""
    names = [f"{'long-' * 8}{number}" for number in range(inputs)]
    return Graph(
        [_tensor(name, "FP32", ("rows", 512)) for name in names],
        [_tensor("sum", "FP32", ("rows", 512))],
        [helper.make_node("Sum", names, ["sum"])],
    ).model()


def picky() -> onnx.ModelProto:
    """``y`` looks ``x`` (INT64 [rows, 1]) up in a table of four: it fails for all but -4 to 3."""
    return Graph(
        [_tensor("x", "INT64", ("rows", 1))],
        [_tensor("y", "FP32", ("rows", 1))],
        [helper.make_node("Gather", ["table", "x"], ["y"], axis=0)],
        {"table": np.array([0.0, 10.0, 20.0, 30.0], np.float32)},
    ).model()


def greedy() -> onnx.ModelProto:
    """``y`` [rows, 1] is ``x`` (INT64) by ten; where ``x`` is 9 it first needs more memory than there is."""
    return Graph(
        [_tensor("x", "INT64", ("rows", 1))],
        [_tensor("y", "FP32", ("rows", 1))],
        [
            helper.make_node("ReduceMax", ["x"], ["largest"], keepdims=0),
            helper.make_node("Equal", ["largest", "nine"], ["exhausts"]),
            helper.make_node("Where", ["exhausts", "too_much", "one"], ["size"]),
            helper.make_node("ConstantOfShape", ["size"], ["zeros"]),
            helper.make_node("ReduceSum", ["zeros"], ["zero"], keepdims=0),
            helper.make_node("Cast", ["x"], ["float"], to=TensorProto.FLOAT),
            helper.make_node("Mul", ["float", "ten"], ["product"]),
            helper.make_node("Add", ["product", "zero"], ["y"]),
        ],
        {
            "nine": np.array([9]),
            "too_much": np.array([10**14]),
            "one": np.array([1]),
            "ten": np.array(10, np.float32),
        },
    ).model()


def slow(seconds: float = 0.1) -> onnx.ModelProto:
    """``y`` is ``x``, FP32 [rows, 4], after about so many seconds of one thread, however many rows."""
    trips = 20
    model = _slow(trips)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    x = np.ones((1, 4), np.float32)
    session.run(None, {"x": x})
    started = time.perf_counter()
    session.run(None, {"x": x})
    return _slow(max(1, round(trips * seconds / (time.perf_counter() - started))))


def _slow(trips: int) -> onnx.ModelProto:
    """A loop of products of matrices that starts from ``x``, so that nothing can be computed before."""
    size = 256
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
            _tensor("state", "FP32", (size, size)),
        ],
        [
            helper.make_tensor_value_info("goes_on", TensorProto.BOOL, ()),
            _tensor("next", "FP32", (size, size)),
        ],
    )
    return Graph(
        [_tensor("x", "FP32", ("rows", 4))],
        [_tensor("y", "FP32", ("rows", 4))],
        [
            helper.make_node("ReduceMean", ["x"], ["mean"], keepdims=0),
            helper.make_node("Add", ["matrix", "mean"], ["begin"]),
            helper.make_node("Loop", ["trips", "", "begin"], ["end"], body=body),
            helper.make_node("ReduceMean", ["end"], ["level"], keepdims=0),
            helper.make_node("Mul", ["level", "nothing"], ["zero"]),
            helper.make_node("Add", ["x", "zero"], ["y"]),
        ],
        {
            "matrix": np.random.default_rng(1).standard_normal((size, size), np.float32) / 16,
            "trips": np.array(trips, np.int64),
            "nothing": np.array(0.0, np.float32),
        },
    ).model()


def _tensor(name: str, datatype: str, shape: Shape) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, ELEMENTS[datatype], list(shape))
