"""A past for the detector that the real server has lived through.

Servers run as pods of a Rollout would, requests come in, and a real Prometheus scrapes them with the labels
that the compiled PodMonitors give. What it scraped is then replayed: a minute of the past is made of measured
moments, drawn by chance and as many as the time of day has load. So the metrics, their labels, the latencies
and the sizes of the buckets are the server's own; how they lie in time is written here.
"""

from __future__ import annotations

import contextlib
import json
import math
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from tests.support.prometheus import Server as Prometheus
from tests.support.prometheus import prometheus, series
from tests.support.serving import Server, served, serving_settings, settings_of, write_model

MINUTE, HOUR, DAY = 60.0, 3600.0, 86400.0
LATENCY_BUCKETS_S = (0.0025, 0.005, 0.01, 0.015, 0.02, 0.025, 0.03, 0.04, 0.06, 0.1, 0.25, 1.0)
COUNTERS = (
    "inference_requests_total",
    "inference_request_duration_seconds_bucket",
    "inference_output_class_total",
)
GAUGES = ("model_ready", "up")
_SCRAPES_AFTER_S = 5.0
"""Prometheus waits so long until it scrapes what its configuration names."""
Labels = Mapping[str, str]


@dataclass(frozen=True)
class Pod:
    """One pod of a Rollout, and the labels that its PodMonitor gives what is scraped."""

    namespace: str
    model: str
    version: str
    hash: str
    name: str = "x7k2p"

    @property
    def labels(self) -> dict[str, str]:
        return {
            "namespace": self.namespace,
            "job": self.model,
            "pod": f"{self.model}-{self.hash}-{self.name}",
            "container": "server",
            "rollouts_pod_template_hash": self.hash,
        }


@dataclass(frozen=True)
class Lived:
    """What was scraped of one pod: ``counters[i]`` rose by ``moments[:, i]``, one row from scrape to scrape."""

    pod: Pod
    counters: tuple[tuple[str, Labels], ...]
    moments: NDArray[np.float64]
    gauges: tuple[tuple[str, Labels], ...]
    requests: float
    """Of a moment, on average."""

    def as_pod(self, version: str, pod_hash: str, name: str = "x7k2p") -> Lived:
        """The same of another pod, as if another version had changed nothing."""
        pod = replace(self.pod, version=version, hash=pod_hash, name=name)
        changes = {**pod.labels, "version": version}

        def renamed(labels: Labels) -> Labels:
            return {name: changes.get(name, value) for name, value in labels.items()}

        counters = tuple((metric, renamed(labels)) for metric, labels in self.counters)
        gauges = tuple((metric, renamed(labels)) for metric, labels in self.gauges)
        return replace(self, pod=pod, counters=counters, gauges=gauges)

    def past(
        self, random: np.random.Generator, times: NDArray[np.float64], load: float = 12.0, rhythm: float = 0.3
    ) -> list[str]:
        """OpenMetrics lines of this pod at ``times`` (Unix seconds, ascending): ``load`` requests a second on
        average, by ``rhythm`` more at noon and less at midnight."""
        step = float(np.median(np.diff(times)))
        day = 1 + rhythm * np.sin(2 * np.pi * (times / DAY - 0.25))
        wanted = random.poisson(step * load * day / self.requests)
        chosen = random.multinomial(wanted, np.full(len(self.moments), 1 / len(self.moments)))
        values = np.cumsum(chosen @ self.moments, axis=0)
        lines: list[str] = []
        for index, (metric, labels) in enumerate(self.counters):
            lines += series(metric, labels, zip(times.tolist(), values[:, index].tolist(), strict=True))
        for metric, labels in self.gauges:
            lines += series(metric, labels, [(at, 1.0) for at in times.tolist()])
        # The kubelet's; no part of the server, so it is not measured.
        used = 3e8 * np.exp(0.004 * random.standard_normal(len(times)))
        kept = {name: self.pod.labels[name] for name in ("namespace", "pod", "container")}
        memory = "container_memory_working_set_bytes"
        return lines + series(memory, kept, zip(times.tolist(), used.tolist(), strict=True))


@contextlib.contextmanager
def pods(folder: Path, models: Mapping[Pod, onnx.ModelProto]) -> Iterator[dict[Pod, Server]]:
    """The real server for each pod, of models whose ``y`` has four columns as their ``x``."""
    with contextlib.ExitStack() as stack:
        running = {}
        for pod, model in models.items():
            weights = write_model(folder / pod.hash, pod.model, model, version=pod.version)
            outputs = {"y": {"datatype": "FP32", "shape": [-1, 4]}}
            one = served(pod.model, weights, version=pod.version, outputs=outputs)
            metrics = {"port": 0, "latency_buckets_s": list(LATENCY_BUCKETS_S)}
            running[pod] = stack.enter_context(serving_settings(settings_of([one], metrics=metrics)))
        yield running


def scrape(running: Mapping[Pod, Server]) -> list[dict[str, Any]]:
    """``scrape_configs`` for these pods, twice a second."""
    return [
        {
            "job_name": f"pod-{number}",
            "scrape_interval": "500ms",
            "scrape_timeout": "500ms",
            "static_configs": [
                {"targets": [f"127.0.0.1:{server.metrics_port}"], "labels": {**pod.labels}},
            ],
        }
        for number, (pod, server) in enumerate(running.items())
    ]


@contextlib.contextmanager
def traffic(servers: Mapping[Pod, Server]) -> Iterator[None]:
    """Requests to all in turn until the end, so that what else this machine does hits all alike. Raises
    AssertionError where one failed."""
    stop = threading.Event()
    failed: list[object] = []
    random = np.random.default_rng(0)

    def call() -> None:
        try:
            while not stop.is_set():
                x = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": random.random(4).tolist()}
                for pod, server in servers.items():
                    answer = server.ask("POST", f"/v2/models/{pod.model}/infer", {"inputs": [x]})
                    assert answer.status == 200, answer.body
        except (AssertionError, OSError) as error:
            failed.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(30)
    assert not failed, failed


def live(folder: Path, running: Mapping[Pod, Server], seconds: float = 5.0) -> dict[Pod, Lived]:
    """Traffic for so long, scraped by a real Prometheus."""
    with prometheus(folder, scrape=scrape(running)) as server, traffic(running):
        time.sleep(_SCRAPES_AFTER_S + seconds)
        return {pod: _lived(server, pod) for pod in running}


def _lived(server: Prometheus, pod: Pod) -> Lived:
    found = {
        (metric, tuple(sorted(labels.items()))): values
        for metric in (*COUNTERS, *GAUGES)
        for labels, values in samples(server, f'{metric}{{pod="{pod.labels["pod"]}"}}[60s]')
    }
    times = sorted({at for (metric, _), values in found.items() if metric in COUNTERS for at, _ in values})
    counters, columns = [], []
    for (metric, labels), values in found.items():
        if metric in COUNTERS:
            known = dict(values)
            levels = np.array([known.get(at, 0.0) for at in times])
            counters.append((metric, dict(labels)))
            columns.append(np.maximum(np.diff(np.maximum.accumulate(levels)), 0.0))
    moments = np.stack(columns, axis=1)
    of_requests = [index for index, (metric, _) in enumerate(counters) if metric == COUNTERS[0]]
    busy = moments[:, of_requests].sum(axis=1) > 0
    assert busy.sum() >= 3, f"too few scrapes of {pod}"
    return Lived(
        pod,
        tuple(counters),
        moments[busy],
        tuple((metric, dict(labels)) for metric, labels in found if metric in GAUGES),
        float(moments[busy][:, of_requests].sum(axis=1).mean()),
    )


def samples(server: Prometheus, query: str) -> list[tuple[dict[str, str], list[tuple[float, float]]]]:
    """What an instant query of a range answers: labels without the name, and (Unix seconds, value)."""
    url = f"{server.url}/api/v1/query?" + urllib.parse.urlencode({"query": query})
    with urllib.request.urlopen(url, timeout=10) as answer:
        result = json.load(answer)["data"]["result"]
    return [
        (
            {name: value for name, value in one["metric"].items() if name != "__name__"},
            [(round(at, 3), float(value)) for at, value in one["values"]],
        )
        for one in result
    ]


def minutes(start: float, end: float, step_s: float = MINUTE) -> NDArray[np.float64]:
    """Times of scrapes in [start, end)."""
    return np.arange(math.ceil(start / step_s) * step_s, end, step_s)


def whole(texts: Sequence[Sequence[str]]) -> str:
    """OpenMetrics of several pods."""
    return "".join(f"{line}\n" for lines in texts for line in lines) + "# EOF\n"
