"""Nothing leaves the machine and nothing is left behind on it: each command under strace, with an empty home."""

from __future__ import annotations

import contextlib
import functools
import json
import re
import subprocess
import threading
import time
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.runtime.detection.service.shop_past import past, settings, write
from tests.runtime.torch.torch_helpers import write as write_torch
from tests.support import serving
from tests.support.checking import every
from tests.support.prometheus import prometheus
from tests.support.traced import Trace, stop, traced

ROOT = Path(__file__).resolve().parents[3]
LINGERS_S = 2.0
"""For what a library does in a thread of its own after a while."""


def examined(trace: Trace, folder: Path) -> None:
    assert any("openat(" in line for line in trace.lines), "strace has seen nothing"
    assert trace.strangers() == []
    assert trace.written(folder) == []
    assert [str(path) for path in trace.home.rglob("*")] == []


def finished(process: subprocess.Popen[bytes], folder: Path) -> str:
    """What a command that ends has written; it must succeed."""
    code = process.wait(120)
    assert code == 0, (folder / "stderr").read_text()
    return (folder / "stdout").read_text()


def ports(process: subprocess.Popen[bytes], folder: Path) -> dict[str, int]:
    end = time.monotonic() + 90
    while time.monotonic() < end and process.poll() is None:
        for line in (folder / "stderr").read_text().splitlines():
            with contextlib.suppress(ValueError):
                return dict(json.loads(line)["listening"])
        time.sleep(0.05)
    raise AssertionError((folder / "stderr").read_text())


def folder_of_models(folder: Path) -> Path:
    models = folder / "models"
    serving.write_model(models, "mlp", serving.mlp())
    described = {"datatype": "FP32", "shape": [-1, 2]}
    weights = models / "torch" / "1" / "model.safetensors"
    weights.parent.mkdir(parents=True)
    sides = {"inputs": {"x": described}, "outputs": {"y": described}}
    write_torch(weights, {"layers": [["Identity", {}]], **sides})
    return models


def until_answered(port: int, path: str, body: serving.Json | None = None) -> None:
    end = time.monotonic() + 90
    answer = None
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            answer = serving.ask(port, "POST" if body else "GET", path, body)
            if answer.status == 200:
                return
        time.sleep(0.1)
    raise AssertionError(answer)


def test_serve(tmp_path: Path) -> None:
    models = folder_of_models(tmp_path)
    options = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")
    with traced(tmp_path, "serve", "--model-repository", models, *options) as (process, trace):
        listening = ports(process, tmp_path)
        until_answered(listening["http"], "/v2/health/ready")
        row = {"name": "input", "datatype": "FP32", "shape": [1, 64], "data": [0.5] * 64}
        until_answered(listening["http"], "/v2/models/mlp/infer", {"inputs": [row]})
        row = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]}
        until_answered(listening["http"], "/v2/models/torch/infer", {"inputs": [row]})
        until_answered(listening["metrics"], "/metrics")
        time.sleep(LINGERS_S)
        assert stop(process) == 0
    examined(trace, tmp_path)


def test_check(tmp_path: Path) -> None:
    models = folder_of_models(tmp_path)
    with traced(tmp_path, "check", "--model-repository", models) as (process, trace):
        assert finished(process, tmp_path).count("ok: ") == 2
    examined(trace, tmp_path)


def test_fetch(tmp_path: Path) -> None:
    weights = tmp_path / "mlp.onnx"
    serving.write_model(tmp_path, "mlp", serving.mlp()).rename(weights)
    handler = functools.partial(Quiet, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        for number, source in enumerate((weights.as_uri(), f"http://127.0.0.1:{web.server_port}/mlp.onnx")):
            folder = tmp_path / str(number)
            with traced(folder, "fetch", "--source", source, "--to", folder / "to") as (process, trace):
                finished(process, folder)
            examined(trace, folder)
        web.shutdown()


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """No line for each request."""


def test_detect_and_replay(tmp_path: Path) -> None:
    """With pictures, whose library looks for fonts and keeps what it has found."""
    series = tmp_path / "series.openmetrics"
    series.write_text(past("ranker"))
    saved = tmp_path / "saved"
    asked = ("--env", "prod", "--model", "ranker", "--series", series, "--format", "html", "--save", saved)
    with traced(tmp_path / "detect", "detect", *asked) as (process, trace):
        page = finished(process, tmp_path / "detect")
    assert "<svg" in page
    examined(trace, tmp_path)
    (verdict,) = saved.rglob("*.json")
    with traced(tmp_path / "replay", "replay", verdict) as (process, trace):
        finished(process, tmp_path / "replay")
    examined(trace, tmp_path)


def test_watch(tmp_path: Path) -> None:
    """Its pages have pictures too, and its memory is a file."""
    with prometheus(tmp_path / "prometheus", openmetrics=past("ranker")) as server:
        file = write(tmp_path, settings(tmp_path, server.url, ["ranker"]))
        with traced(tmp_path / "watch", "watch", "--settings", file, "--once") as (process, trace):
            finished(process, tmp_path / "watch")
    examined(trace, tmp_path)


@pytest.mark.parametrize("folder", ["benchmarks", "docs", "tests", "compiler", "runtime"])
def test_whoever_imports_the_engine_has_told_it_first(folder: str) -> None:
    """The package's entry tells it for all of the runtime, and for the tests."""
    own = ROOT / "runtime" / "modelway_runtime"
    files = [path for path in every((ROOT / folder).rglob("*.py")) if own not in path.parents]
    untold = []
    for path in files if folder != "tests" else ():
        text = path.read_text()
        engine = re.search(r"^\s*(import|from) onnxruntime\b", text, re.MULTILINE)
        if engine and "ORT_DISABLE_TELEMETRY" not in text[: engine.start()]:
            untold.append(path)
    assert untold == []
