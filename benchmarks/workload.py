"""The workload: one environment, and one Model with its Alert, any number of times under other names.

Only values differ between the models (name, team, version, digests, limits), never the shape, so that a
template language can make the same objects by interpolation alone.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from string import Template
from typing import Any

import yaml

ENVIRONMENT = "prod"
OUTPUT = "generated"
PLATFORM = "_platform"
TEAMS = ("search", "ads", "chat", "vision", "speech", "pricing", "fraud", "maps", "docs", "home")
STEMS = ("ranker", "encoder", "classifier", "forecast", "matcher", "tagger")

Json = dict[str, Any]

_REPOSITORY = """\
requires: "$series"
specs: specs
output: generated
"""

_ENVIRONMENT = """\
apiVersion: modelway.dev/v1alpha1
kind: Environment
metadata:
  name: prod
spec:
  cluster:
    kubernetes: "1.36"
    addOns:
      prometheusOperator: true
      imageVolumes: true
  monitoring:
    retention: 35d
  images:
    server: registry.example/runtime@sha256:f464d2c3ccfe0baeea64391bb7806ddb8eb0f875f47b7358b5ec898116995988
"""

_RESOURCE = """\
apiVersion: modelway.dev/v1alpha1
kind: Resource
metadata:
  name: cpu-small
spec:
  cpu: "2"
  memory: 4Gi
  cost: {perHour: "0.096", currency: EUR}
"""

_MODEL = Template("""\
# The $name of the team $team, and what it promises.
apiVersion: modelway.dev/v1alpha1
kind: Model
metadata:
  name: $name
  team: $team
spec:
  version: $version
  lineage:
    trainingData: {uri: "s3://shop-data/$team/2026-11-$day"}
    hyperparameters: {learning_rate: 0.00$rate, epochs: $epochs}
    architecture: MLP 64-256-64-1
    code: {repository: "https://git.example/shop/$team", commit: "$commit"}
    evaluation: {"ndcg@10": 0.$quality}
  artifact:
    uri: oci://registry.example/models/$name@sha256:$image
    format: onnx
    digest: sha256:$weights
    size: 64Mi
  interface:
    inputs:
      features: {datatype: FP32, shape: [-1, $width]}
    outputs:
      score: {datatype: FP32, shape: [-1, 1]}
  serving:
    resource: cpu-small
    protocols: {grpc: false}
    batching: {maxRows: $rows, maxDelay: 2ms}
    concurrency: {inFlight: $flight}
    scaling: {minReplicas: $replicas}
---
apiVersion: modelway.dev/v1alpha1
kind: Alert
metadata:
  name: $name
  team: $team
spec:
  target: {model: $name}
  thresholds:
    latency: {quantile: 0.99, above: ${latency}ms, severity: critical}
    errorRatio: {above: 0.0$errors}
  labels: {channel: $team-oncall}
""")


def parameters(index: int) -> dict[str, str]:
    """What differs between models: the ``index``-th value of each parameter."""
    return {
        "name": f"{STEMS[index % len(STEMS)]}-{index:05d}",
        "team": TEAMS[index % len(TEAMS)],
        "version": f"{1 + index % 60}.{index % 10}.{index % 7}",
        "day": f"{1 + index % 28:02d}",
        "rate": str(1 + index % 9),
        "epochs": str(5 + index % 40),
        "commit": _digits(index, "commit")[:16],
        "quality": str(211 + 2 * (index % 300)),
        "image": _digits(index, "image"),
        "weights": _digits(index, "weights"),
        "width": str(32 + 8 * (index % 16)),
        "rows": str(32 << index % 4),
        "flight": str(128 + 16 * (index % 32)),
        "replicas": str(2 + index % 3),
        "latency": str(110 + 10 * (index % 14)),
        "errors": str(1 + index % 9),
    }


def _digits(index: int, what: str) -> str:
    return hashlib.sha256(f"{what} {index}".encode()).hexdigest()


@dataclass(frozen=True)
class Shop:
    """A repository of ``size`` models below ``root``, and what it compiled to."""

    root: Path
    size: int

    @property
    def output(self) -> Path:
        return self.root / OUTPUT

    def write(self, version: str) -> None:
        """Write the specs, for the given version of modelway."""
        files = {
            "modelway.yaml": Template(_REPOSITORY).substitute(series=".".join(version.split(".")[:2])),
            "specs/environments/prod.yaml": _ENVIRONMENT,
            "specs/resources/cpu-small.yaml": _RESOURCE,
        }
        for one in map(parameters, range(self.size)):
            files[f"specs/{one['team']}/{one['name']}.yaml"] = _MODEL.substitute(one)
        for path, text in files.items():
            (self.root / path).parent.mkdir(parents=True, exist_ok=True)
            (self.root / path).write_text(text, encoding="utf-8")

    def paths(self, index: int) -> list[Path]:
        """The files made from the ``index``-th model and its alert, in the same order for each model."""
        one = parameters(index)
        return sorted((self.output / ENVIRONMENT / one["team"] / one["name"]).iterdir())

    @cached_property
    def objects(self) -> list[list[Json]]:
        """The objects made from each model and its alert. Parsing them takes some milliseconds a model."""
        return [[_read(path) for path in self.paths(index)] for index in range(self.size)]

    def summary(self) -> Json:
        """How many objects a model becomes, of which kinds, and how large they are."""
        per_model = [self.paths(index) for index in range(self.size)]
        counts = {len(paths) for paths in per_model}
        if len(counts) != 1:
            raise ValueError(f"the models differ in how many objects they become: {sorted(counts)}")
        total = sum(path.stat().st_size for paths in per_model for path in paths)
        lines = sum(path.read_bytes().count(b"\n") for path in per_model[0])
        return {
            "objects": len(per_model[0]),
            "kinds": sorted(_read(path)["kind"] for path in per_model[0]),
            "kb": round(total / self.size / 1000, 1),
            "lines": lines,
            "spec_lines": _MODEL.template.count("\n"),
            "teams": min(self.size, len(TEAMS)),
        }

    def files(self) -> dict[str, bytes]:
        """Every generated file, with the index and the objects of the platform."""
        found = (path for path in self.output.rglob("*") if path.is_file())
        return {str(path.relative_to(self.output)): path.read_bytes() for path in found}


def _read(path: Path) -> Json:
    found: Json = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
    return found
