"""The part of ``make demo`` that detects: a slower version of a model, measured, and the verdict on it."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import serve_demo
from onnx import TensorProto, helper, numpy_helper

ROOT = Path(__file__).resolve().parents[1]
OUTPUT = ROOT / "demo-output"
READ = (
    "inference_requests_total",
    "inference_request_duration_seconds_bucket",
    "inference_output_class_total",
)
PLACE = {"namespace": "demo-local", "job": "digits"}
REQUESTS, SCRAPED = 600, 20
"""The same pictures for each version; after every so many the server's counters are read."""
MINUTE, DAY = 60.0, 86400.0
DAYS, AFTER = 10, 70
LOAD = 20.0
"""Requests a second in the history, on average."""
_SAMPLE = re.compile(r"([a-z_]+)\{(.*)\} (\S+)")


@dataclass(frozen=True)
class Moments:
    """What the server counted: ``rises[:, i]`` of the series ``names[i]``, a row a scrape."""

    names: tuple[str, ...]
    rises: np.ndarray


def main(images: np.ndarray, weights: np.ndarray, bias: np.ndarray) -> None:
    """``images`` are asked about; the model of the demo before it has ``weights`` and ``bias``."""
    with tempfile.TemporaryDirectory(prefix="modelway-demo-") as folder, contextlib.ExitStack() as stack:
        servers = {}
        for version, layers in (("1", 2), ("2", 24)):
            repository = Path(folder) / f"release-{version}"
            file = repository / "digits" / version / "model.onnx"
            serve_demo.save(file, weights, bias)
            add_work(file, layers)
            print(f"\n$ modelway-runtime serve --model-repository release-{version}")
            command = [
                "serve",
                "--model-repository",
                str(repository),
                "--threads",
                "1",
                "--log-format",
                "text",
            ]
            servers[version] = stack.enter_context(serve_demo.server(command))
        measured = measure(servers, images)
    now = time.time() // MINUTE * MINUTE
    shutil.rmtree(OUTPUT, ignore_errors=True)
    OUTPUT.mkdir()
    (OUTPUT / ".gitignore").write_text("*\n")
    (OUTPUT / "history.om").write_text(history(measured, now))
    print(
        f"\n  history.om: the days before are a replay. Each minute of {DAYS} days is put together from"
        "\n  measured moments of version 1, more by day than by night; then come"
        f"\n  {AFTER} minutes of version 2, made in the same way."
    )
    detect()


def add_work(file: Path, layers: int) -> None:
    """Products of matrices whose result counts for nothing: a careless release brings more of them."""
    model, size = onnx.load(file), 1024
    graph = model.graph
    random = np.random.default_rng(0)
    widen = random.standard_normal((64, size), np.float32) / 8
    mix = random.standard_normal((size, size), np.float32) / 32
    graph.initializer.extend(
        [
            numpy_helper.from_array(widen, "widen"),
            numpy_helper.from_array(mix, "mix"),
            numpy_helper.from_array(np.zeros((size, 10), np.float32), "forget"),
        ]
    )
    nodes = [helper.make_node("MatMul", ["pixels", "widen"], ["state0"])]
    for index in range(layers):
        nodes.append(helper.make_node("MatMul", [f"state{index}", "mix"], [f"product{index}"]))
        nodes.append(helper.make_node("Tanh", [f"product{index}"], [f"state{index + 1}"]))
    nodes.append(helper.make_node("MatMul", [f"state{layers}", "forget"], ["nothing"]))
    gemm, softmax = graph.node
    nodes += [gemm, helper.make_node("Add", ["scores", "nothing"], ["same"])]
    nodes.append(helper.make_node("Softmax", ["same"], softmax.output, axis=1))
    made = helper.make_graph(nodes, graph.name, graph.input, graph.output, graph.initializer)
    assert graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    onnx.save(helper.make_model(made, opset_imports=model.opset_import, ir_version=9), file)


def measure(servers: Mapping[str, Mapping[str, int]], images: np.ndarray) -> dict[str, Moments]:
    """One picture after the other to each version in turn, so that what else this machine does hits all
    alike; and what the servers count meanwhile."""
    with contextlib.ExitStack() as stack:
        connections = {
            version: stack.enter_context(
                contextlib.closing(http.client.HTTPConnection("127.0.0.1", ports["http"], timeout=30))
            )
            for version, ports in servers.items()
        }
        latencies: dict[str, list[float]] = {version: [] for version in servers}
        pages = {version: [scraped(ports["metrics"])] for version, ports in servers.items()}
        for number, picture in enumerate(images[:REQUESTS], 1):
            tensor = {"name": "pixels", "datatype": "FP32", "shape": [1, 64]}
            body = json.dumps({"inputs": [{**tensor, "data": picture.round(3).tolist()}]})
            for version, connection in connections.items():
                latencies[version].append(asked(connection, body))
                if number % SCRAPED == 0:
                    pages[version].append(scraped(servers[version]["metrics"]))
    print()
    for version, seconds in latencies.items():
        half, most = np.quantile(seconds, [0.5, 0.99]) * 1000
        print(
            f"  version {version}: {len(seconds)} requests measured, half within {half:.1f} ms, "
            f"99 of 100 within {most:.1f} ms"
        )
    return {version: moments(of_version) for version, of_version in pages.items()}


def asked(connection: http.client.HTTPConnection, body: str) -> float:
    """Seconds until the answer is there."""
    began = time.perf_counter()
    connection.request("POST", "/v2/models/digits/infer", body)
    answer = connection.getresponse()
    answer.read()
    assert answer.status == 200, answer.status
    return time.perf_counter() - began


def moments(pages: Sequence[Mapping[str, float]]) -> Moments:
    names = tuple(pages[-1])
    levels = np.array([[page.get(name, 0.0) for name in names] for page in pages])
    return Moments(names, np.diff(levels, axis=0))


def scraped(port: int) -> dict[str, float]:
    """The counters that the detector reads, with the labels that a Prometheus would add."""
    place = ",".join(f'{name}="{value}"' for name, value in PLACE.items())
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as page:
        found = (_SAMPLE.fullmatch(line) for line in page.read().decode().splitlines())
        return {f"{one[1]}{{{place},{one[2]}}}": float(one[3]) for one in found if one and one[1] in READ}


def history(measured: Mapping[str, Moments], now: float, seed: int = 0) -> str:
    """OpenMetrics up to ``now`` (Unix seconds)."""
    random = np.random.default_rng(seed)
    release = now - AFTER * MINUTE
    spans = {"1": (now - DAYS * DAY, release), "2": (release, now)}
    lines: list[str] = []
    for version, each in measured.items():
        times = np.arange(*spans[version], MINUTE)
        wanted = LOAD * MINUTE * (1 + 0.4 * np.sin(2 * np.pi * (times / DAY - 0.25)))
        requests = [name.startswith(READ[0]) for name in each.names]
        of_one = each.rises[:, requests].sum() / len(each.rises)
        shares = np.full(len(each.rises), 1 / len(each.rises))
        chosen = random.multinomial(random.poisson(wanted / of_one), shares)
        counts = np.cumsum(chosen @ each.rises, axis=0)
        for index, name in enumerate(each.names):
            column = counts[:, index].tolist()
            lines += [
                f"{name} {count:.0f} {at:.0f}" for at, count in zip(times.tolist(), column, strict=True)
            ]
        ready = f'model_ready{{namespace="demo-local",job="digits",model="digits",version="{version}"}}'
        lines += [f"{ready} 1 {at:.0f}" for at in times.tolist()]
    return "\n".join([*lines, "# EOF\n"])


def detect() -> None:
    """The command as a person would call it, and what it would post."""
    arguments = ["detect", "--env", "local", "--model", "digits", "--series", "history.om"]
    arguments += ["--format", "markdown", "--output", "comment.md", "--save", "."]
    print(f"\n$ modelway-runtime {' '.join(arguments)}", flush=True)
    program = str(Path(sys.executable).with_name("modelway-runtime"))
    began = time.monotonic()
    subprocess.run([program, *arguments], cwd=OUTPUT, check=True)
    print(f"  (in {time.monotonic() - began:.1f} s) On the pull request it would say:\n")
    comment = (OUTPUT / "comment.md").read_text(encoding="utf-8")
    for line in comment.partition("\n<details>")[0].rstrip().splitlines():
        print(f"    {line}".rstrip())
    print("    …")
    [page] = OUTPUT.glob("*.html")
    [plot] = OUTPUT.glob("*.svg")
    print(f"\n  The whole comment: {shown(OUTPUT / 'comment.md')}")
    print(f"  The plot:          {shown(plot)}")
    print(f"  As a page:         {shown(page)}")


def shown(path: Path) -> Path:
    return path.relative_to(ROOT)
