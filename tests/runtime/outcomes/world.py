"""A real server whose models fail each at another stage, callers of both protocols, and its four records."""

from __future__ import annotations

import gzip
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from random import getrandbits
from typing import Any

import grpc
import numpy as np
from numpy.typing import NDArray
from onnx import helper
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from modelway_runtime.serving.grpc.messages import (
    SERVICE,
    ModelInferRequest,
    ModelInferResponse,
    ModelStreamInferResponse,
)
from tests.runtime.rest.rest_helpers import datatype_of, raw
from tests.runtime.torch.torch_helpers import write as write_torch
from tests.support import serving
from tests.support.serving import Graph, Json, Server

REQUEST_BYTES = 2**20
STATUSES = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.NOT_FOUND: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.CANCELLED: 499,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNIMPLEMENTED: 501,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}
"""The contract's table."""
KEYS = {"all": None, "elsewhere": ["mlp"], "rated": None}
PACKAGE = '''
import torch

class Surprise(torch.nn.Module):
    """What the backend does not expect, by the first number; for anything else the input."""

    def forward(self, x):
        first = int(x.flatten()[0])
        if first == 1:
            raise KeyError("a secret of the model")
        return {"y": x.to(torch.complex64) if first == 2 else x}
'''


def widened(columns: int) -> Any:
    """``y`` FP32 [rows, columns] repeats ``x`` FP32 [rows, 1]."""
    return Graph(
        [helper.make_tensor_value_info("x", serving.ELEMENTS["FP32"], ["rows", 1])],
        [helper.make_tensor_value_info("y", serving.ELEMENTS["FP32"], ["rows", columns])],
        [helper.make_node("Tile", ["x", "times"], ["y"])],
        {"times": np.array([1, columns])},
    ).model()


class Collector(ThreadingHTTPServer):
    """Where traces are sent: status by the id of the request."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Traces)
        self.statuses: list[tuple[str, int]] = []


class _Traces(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                for span in scope.spans:
                    values = {item.key: item.value for item in span.attributes}
                    named = values["modelway.request_id"].string_value
                    self.server.statuses.append((named, values["http.response.status_code"].int_value))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@dataclass
class World:
    """The server, and what it has recorded."""

    server: Server
    collector: Collector

    def new_id(self) -> str:
        return f"request-{getrandbits(64):x}"

    def channel(self, *options: tuple[str, int]) -> grpc.Channel:
        return grpc.insecure_channel(self.server.grpc, options=options)

    def counted(self, model: str) -> dict[str, float]:
        """Requests of a model by code."""
        codes = (200, 400, 401, 403, 404, 413, 415, 429, 499, 500, 502, 503, 504)
        numbers = {
            str(c): self.server.metric("inference_requests_total", model=model, code=str(c)) for c in codes
        }
        assert sum(numbers.values()) == self.server.metric("inference_requests_total", model=model)
        return {code: number for code, number in numbers.items() if number}

    def statistics(self, model: str) -> tuple[int, int]:
        """Successes and failures of a model by Triton's extension."""
        answer = self.server.ask("GET", f"/v2/models/{model}/stats", headers=headers("all"))
        if answer.status != 200:
            return 0, 0
        stats = answer.json["model_stats"][0]["inference_stats"]
        return stats["success"]["count"], stats["fail"]["count"]

    def audited(self, request_id: str) -> list[int]:
        lines = self.server.log_file.with_name("stdout").read_text().splitlines()
        entries = [json.loads(line) for line in lines if request_id in line]
        return [entry["status"] for entry in entries if entry["request_id"] == request_id]

    def traced(self, request_id: str) -> list[int]:
        return [status for named, status in self.collector.statuses if named == request_id]


@contextmanager
def recorded(
    world: World, model: str, request_id: str, *, known: bool = True, version: bool = True, beside: int = 0
) -> Iterator[list[int]]:
    """The caller appends the status that it saw; all four records must name it, once.

    ``known`` False: the server has no such model, so it makes no series and no statistics of it; ``version``
    False: no such version, so no statistics. ``beside``: so many other requests end well meanwhile.
    """
    label = model if known else ""
    before, stats = world.counted(label), world.statistics(model)
    rejected = world.server.metric("inference_rejected_total", model=label)
    seen: list[int] = []
    yield seen
    (status,) = seen
    until(lambda: len(world.traced(request_id)) >= 1 and len(world.audited(request_id)) >= 1)
    assert world.audited(request_id) == [status], "the audit log"
    assert world.traced(request_id) == [status], "the traces"
    now = world.counted(label)
    change = {int(code): n - before.get(code, 0) for code, n in now.items() if n != before.get(code, 0)}
    expected = Counter([status] + [200] * beside)
    assert change == expected, "the metric"
    assert world.server.metric("inference_rejected_total", model=label) - rejected <= 1, "counted twice"
    if known and version:
        success, fail = (n - then for n, then in zip(world.statistics(model), stats, strict=True))
        assert success == expected[200], "the statistics"
        assert fail == beside + 1 - expected[200], "the statistics"


@contextmanager
def started(folder: Path, **changes: Any) -> Iterator[World]:
    """The server with all its models."""
    site = folder / "site"
    information = site / "surprises-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "surprises.py").write_text(PACKAGE)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: surprises\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(
        "[modelway_runtime.architectures]\nsurprise = surprises:Surprise\n"
    )
    keys = folder / "keys.json"
    entries: list[Json] = [
        {"client": name, "sha256": sha256(name.encode()).hexdigest(), "models": models}
        for name, models in KEYS.items()
    ]
    entries[-1] |= {"requests_per_second": 0.001, "burst": 1}
    keys.write_text(json.dumps({"keys": entries}))
    with Collector() as collector:
        threading.Thread(target=collector.serve_forever, daemon=True).start()
        settings = serving.settings_of(
            _models(folder),
            auth={"mode": "api_key", "keys_file": str(keys)},
            audit={"enabled": True, "mask": []},
            limits={"request_bytes": REQUEST_BYTES, "in_flight": 64},
            **changes,
        )
        environment = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
            "PYTHONPATH": os.pathsep.join((str(site), str(serving.RUNTIME))),
        }
        with serving.serving_settings(settings, environment=environment) as server:
            yield World(server, collector)
        collector.shutdown()


def _models(folder: Path) -> list[Json]:
    made = {
        "picky": serving.picky(),
        "mlp": serving.mlp(),
        "line": serving.identity("FP32", ("rows",)),
        "half": serving.identity("FP16"),
        "large": widened(2**18 + 1),  # more than REQUEST_BYTES
        "unread": widened(2**18 - 2**12),  # less than it, but more than a connection takes
        "huge": widened(2**22),
    }
    slow = serving.write_model(folder, "slow", serving.slow(0.8))
    waits = {"max_rows": 1, "timeout_ms": 20_000}
    served = [
        serving.served(name, serving.write_model(folder, name, model), rows="none")
        for name, model in made.items()
    ]
    served.append(serving.served("slow", slow, rows="none", queue=waits, warm_up={"rows": []}))
    described = {"datatype": "FP32", "shape": [-1, 1]}
    sides = {"inputs": {"x": described}, "outputs": {"y": described}}
    surprise = write_torch(folder / "surprise.safetensors", {"factory": "surprise"})
    served.append(serving.served("surprise", surprise, format="torch", rows="none", **sides))
    return served


def headers(key: str, request_id: str = "") -> dict[str, str]:
    return {"Authorization": f"Bearer {key}", **({"X-Request-Id": request_id} if request_id else {})}


def metadata(key: str, request_id: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {key}"), ("x-request-id", request_id))


def message(model: str, x: NDArray[Any], *, version: str = "", **parameters: int) -> Any:
    """A ModelInferRequest of one input."""
    request = ModelInferRequest(model_name=model, model_version=version)
    request.inputs.add(name="x", datatype=datatype_of(x), shape=x.shape)
    request.raw_input_contents.append(raw(x))
    for name, value in parameters.items():
        request.parameters[name].int64_param = value
    return request


def unary(channel: grpc.Channel) -> Any:
    return channel.unary_unary(
        f"/{SERVICE}/ModelInfer",
        request_serializer=_bytes,
        response_deserializer=ModelInferResponse.FromString,
    )


def unread(channel: grpc.Channel) -> Any:
    """The same RPC for a caller that reads no answer unless it asks for it."""
    return channel.unary_stream(
        f"/{SERVICE}/ModelInfer",
        request_serializer=_bytes,
        response_deserializer=ModelInferResponse.FromString,
    )


def stream(channel: grpc.Channel) -> Any:
    return channel.stream_stream(
        f"/{SERVICE}/ModelStreamInfer",
        request_serializer=_bytes,
        response_deserializer=ModelStreamInferResponse.FromString,
    )


def status_of(call: Callable[[], Any]) -> int:
    """The status that a gRPC caller sees."""
    try:
        call()
    except grpc.RpcError as error:
        return STATUSES[error.code()]
    return 200


def json_body(x: NDArray[Any], *, shape: list[int] | None = None, **parameters: int) -> Json:
    tensor = {
        "name": "x",
        "datatype": datatype_of(x),
        "shape": list(x.shape) if shape is None else shape,
        "data": x.ravel().tolist(),
    }
    return {"inputs": [tensor], **({"parameters": dict(parameters)} if parameters else {})}


def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


def _bytes(request: Any) -> bytes:
    return request if isinstance(request, bytes) else bytes(request.SerializeToString())


ONE = np.ones((1, 1), np.float32)
ROW = np.ones((1, 4), np.float32)
