"""The life of a server: not ready before warm-up, ready, reloaded, drained, stopped."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import json
import signal
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.support import serving

ROW = {"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 2, 3, 4]}]}
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def infer(server: serving.Server, model: str, **headers: str) -> serving.Answer:
    return server.ask("POST", f"/v2/models/{model}/infer", ROW, headers)


def test_it_is_live_and_not_ready_while_it_loads(tmp_path: Path) -> None:
    weights = serving.write_model(tmp_path, "slow", serving.slow(0.3))
    settings = serving.settings_of([serving.served("slow", weights, warm_up={"rows": [1, 2, 3]})])
    with serving.serving_settings(settings, ready=False) as server:
        assert server.ask("GET", "/v2/health/live").status == 200
        answer = server.ask("GET", "/v2/health/ready")
        assert (answer.status, answer.json["ready"]) == (503, False)
        assert infer(server, "slow").status in (404, 503)
        serving.wait_until_ready(server)
        assert infer(server, "slow").status == 200


def test_sigterm_answers_what_is_in_flight_and_refuses_readiness(tmp_path: Path) -> None:
    weights = serving.write_model(tmp_path, "slow", serving.slow(1.0))
    settings = serving.settings_of([serving.served("slow", weights)], drain_s=10)
    answers: list[serving.Answer] = []
    with serving.serving_settings(settings) as server:
        callers = [threading.Thread(target=lambda: answers.append(infer(server, "slow"))) for _ in range(3)]
        for caller in callers:
            caller.start()
        until(lambda: server.metric("inference_requests_in_flight") == 3)
        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.ask("GET", "/v2/health/ready").status == 503)
        assert server.ask("GET", "/v2/health/live").status == 200
        late = server.ask("GET", "/v2")
        assert late.headers["connection"] == "close"  # a kept connection would be cut later
        for caller in callers:
            caller.join(20)
        assert server.process.wait(20) == 0
    assert [answer.status for answer in answers] == [200, 200, 200]


def test_draining_ends_when_its_time_is_over(tmp_path: Path) -> None:
    weights = serving.write_model(tmp_path, "slow", serving.slow(30))
    settings = serving.settings_of([serving.served("slow", weights, warm_up={"rows": []})], drain_s=0.5)
    with serving.serving_settings(settings) as server:
        caller = threading.Thread(target=try_infer, args=(server,))
        caller.start()
        until(lambda: server.metric("inference_requests_in_flight") == 1)
        started = time.monotonic()
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(20)
        assert time.monotonic() - started < 10
        caller.join(5)


def try_infer(server: serving.Server) -> None:
    with contextlib.suppress(OSError, http.client.HTTPException):
        infer(server, "slow")


def test_a_model_that_cannot_be_loaded_ends_the_server_with_the_reason(tmp_path: Path) -> None:
    settings = serving.settings_of([serving.served("gone", tmp_path / "gone.onnx")])
    with serving.serving_settings(settings, ready=False) as server:
        assert server.process.wait(30) == 5
        assert "gone.onnx" in server.log()
        assert "Traceback" not in server.log()


def test_sighup_serves_what_the_folder_holds_now(tmp_path: Path) -> None:
    serving.write_model(tmp_path, "one", serving.identity("FP32", ("rows", 4)))
    with serving.serving_folder(tmp_path) as server:
        assert infer(server, "one").json["model_version"] == "1"
        serving.write_model(tmp_path, "one", serving.identity("FP32", ("rows", 4)), version="2")
        serving.write_model(tmp_path, "two", serving.identity("FP32", ("rows", 4)))
        server.process.send_signal(signal.SIGHUP)
        until(lambda: infer(server, "two").status == 200)
        until(lambda: infer(server, "one").json.get("model_version") == "2")
        (tmp_path / "two" / "model.json").write_text('{"nonsense": 1}')
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "nonsense" in server.log())
        assert infer(server, "two").status == 200  # what was wrong has changed nothing


def test_keys_limits_and_the_audit_log_together(tmp_path: Path) -> None:
    weights = serving.write_model(tmp_path, "same", serving.identity("FP32", ("rows", 4)))
    keys = tmp_path / "keys.json"
    entry = {"models": None, "requests_per_second": None, "burst": None, "admin": False, "expires": None}

    def write_keys(*secrets: str, **changes: Any) -> None:
        entries = [
            {"client": f"client-{s}", "sha256": hashlib.sha256(s.encode()).hexdigest(), **entry, **changes}
            for s in secrets
        ]
        new = keys.with_suffix(".new")
        new.write_text(json.dumps({"keys": entries}))
        new.replace(keys)

    write_keys("old")
    settings = serving.settings_of(
        [serving.served("same", weights)],
        auth={"mode": "api_key", "keys_file": str(keys)},
        audit={"enabled": True, "mask": ["y"]},
    )
    with serving.serving_settings(settings) as server:
        answer = infer(server, "same")
        assert (answer.status, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert infer(server, "same", authorization="Bearer wrong").status == 401
        assert infer(server, "same", authorization="Bearer old").status == 200
        assert server.ask("GET", "/v2/models/same").status == 401
        assert server.ask("GET", "/v2/health/ready").status == 200  # the kubelet has no key
        write_keys("new", models=["other"])
        until(lambda: infer(server, "same", authorization="Bearer old").status == 401)
        assert infer(server, "same", authorization="Bearer new").status == 403
        write_keys("new", requests_per_second=0.1, burst=1)
        until(lambda: infer(server, "same", authorization="Bearer new").status in (200, 429))
        limited = infer(server, "same", authorization="Bearer new")
        assert limited.status == 429
        assert int(limited.headers["retry-after"]) >= 1
        audit = server.log_file.with_name("stdout")
        until(lambda: '"client-new"' in audit.read_text())
        lines = [json.loads(line) for line in audit.read_text().splitlines()]
        assert server.metric("inference_rejected_total", reason="unauthorized") >= 3
    first = next(line for line in lines if line["status"] == 200)
    assert first["client"] == "client-old"
    assert first["inputs"]["x"]["values"] == [1, 2, 3, 4]
    assert first["outputs"]["y"]["values"] == "***"
    text = "".join(map(json.dumps, lines))
    assert "Bearer" not in text
    assert '"old"' not in text


class Collector(ThreadingHTTPServer):
    """Takes traces over OTLP, as a collector does."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Traces)
        self.spans: list[Any] = []


class _Traces(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            for scope in resource.scope_spans:
                self.server.spans += scope.spans
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def test_traces_follow_the_callers(tmp_path: Path, collector: Collector) -> None:
    weights = serving.write_model(tmp_path, "same", serving.identity("FP32", ("rows", 4)))
    settings = serving.settings_of([serving.served("same", weights)])
    environment = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{collector.server_port}",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    with serving.serving_settings(settings, environment=environment) as server:
        assert infer(server, "same", traceparent=TRACE).status == 200
        unsampled = TRACE[:-1] + "0"
        assert infer(server, "same", traceparent=unsampled).status == 200
        assert infer(server, "same").status == 200
        until(lambda: len(collector.spans) >= 2)
        assert server.stop() == 0
    assert len(collector.spans) == 2  # the caller's own choice not to sample is kept
    child = next(span for span in collector.spans if span.trace_id.hex() == TRACE[3:35])
    assert child.parent_span_id.hex() == TRACE[36:52]
    assert child.name == "infer same"
    attributes = {item.key: item.value for item in child.attributes}
    assert attributes["http.response.status_code"].int_value == 200
    assert 0 < child.end_time_unix_nano - child.start_time_unix_nano < 10e9


def test_a_stuck_model_makes_the_server_not_live(tmp_path: Path) -> None:
    """Only the threshold is shortened: a minute is long for a test."""
    weights = serving.write_model(tmp_path, "slow", serving.slow(20))
    settings = serving.settings_of([serving.served("slow", weights, warm_up={"rows": []})], drain_s=0)
    environment = {"PYTHONPATH": str(tmp_path)}
    (tmp_path / "sitecustomize.py").write_text(
        "import modelway_runtime.serving.batching as batching\nbatching.STUCK_S = 0.2\n"
    )
    with serving.serving_settings(settings, environment=environment) as server:
        assert server.ask("GET", "/v2/health/live").status == 200
        threading.Thread(target=try_infer, args=(server,), daemon=True).start()
        until(lambda: server.ask("GET", "/v2/health/live").status == 503)
        server.process.kill()


def test_values_and_classes_are_counted_for_drift(tmp_path: Path) -> None:
    serving.write_model(tmp_path, "scores", serving.identity("FP32", ("rows", 1)))
    serving.write_model(tmp_path, "classes", serving.identity("FP32", ("rows", 3)))
    serving.write_model(tmp_path, "labels", serving.identity("INT64", ("rows", 1)))

    def ask(model: str, datatype: str, array: np.ndarray) -> None:
        tensor = {
            "name": "x",
            "datatype": datatype,
            "shape": list(array.shape),
            "data": array.ravel().tolist(),
        }
        assert server.ask("POST", f"/v2/models/{model}/infer", {"inputs": [tensor]}).status == 200

    with serving.serving_folder(tmp_path) as server:
        ask("scores", "FP32", np.array([[0.05], [0.95], [3.0]]))
        ask("classes", "FP32", np.array([[0.1, 0.9, 0.0], [0.2, 0.7, 0.1], [0.5, 0.1, 0.4]]))
        ask("labels", "INT64", np.array([[7], [7], [100_000]]))
        value = server.metric
        assert value("inference_output_value_count", model="scores") == 3
        assert value("inference_output_value_bucket", model="scores", le="0.1") == 1
        assert value("inference_output_value_bucket", model="scores", le="1.0") == 2
        assert value("inference_output_class_total", model="classes", **{"class": "1"}) == 2
        assert value("inference_output_class_total", model="classes", **{"class": "0"}) == 1
        assert value("inference_output_class_total", model="labels", **{"class": "7"}) == 2
        assert value("inference_output_class_total", model="labels", **{"class": "other"}) == 1


def until(condition: Any, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
