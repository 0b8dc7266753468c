"""Settings and small networks for the tests of torch weights."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from modelway_runtime.serving.backends import torch_backend
from modelway_runtime.serving.backends.base import Model
from modelway_runtime.settings import Batching, Cache, Device, Queue, Served, TensorSpec, WarmUp

DIGEST = "sha256:" + "0" * 64


def spec(datatype: Any, *shape: int) -> TensorSpec:
    return TensorSpec(datatype=datatype, shape=shape)


def served(
    inputs: dict[str, TensorSpec] | None = None,
    outputs: dict[str, TensorSpec] | None = None,
    digest: str | None = None,
) -> Served:
    return Served(
        name="ranker",
        version="1",
        source="file:weights",
        format="torch",
        digest=digest,
        lineage_digest=None,
        inputs=inputs or {},
        outputs=outputs or {},
        rows=None,
        instances=1,
        warm_up=WarmUp(rows=()),
        batching=Batching(max_rows=1, max_delay_ms=0, preferred_rows=()),
        queue=Queue(max_rows=1, timeout_ms=0),
        cache=Cache(max_bytes=0, ttl_s=0),
    )


def device(*providers: str, allow_cpu: bool = False, threads: int = 0) -> Device:
    return Device(providers=providers or ("cpu",), allow_cpu=allow_cpu, threads=threads, options={})


def load(
    path: Path, settings: Served | None = None, on: Device | None = None, *, trusted: bool = False
) -> Model:
    return torch_backend.load(path, settings or served(), on or device(), trusted=trusted)


def write(path: Path, declaration: object, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    """A safetensors file that says anything; text stands as it is."""
    text = declaration if isinstance(declaration, str) else json.dumps(declaration)
    safetensors.torch.save_file(tensors or {}, path, metadata={"modelway.architecture": text})
    return path


def peak_memory() -> int:
    """The most memory that this process has had at once, in bytes."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) * 1024
