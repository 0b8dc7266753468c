"""``--model-repository DIR``: models of a folder, laid out as Triton's are.

``DIR/<model>/<version>/model.onnx`` (or ``.safetensors``, ``.pt2``, ``.pt``). ``DIR/<model>/model.json``,
which may be missing, holds any of the settings of a served model, and ``versions``: ``"latest"``
(the default), ``"all"`` or a list.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal
from urllib.parse import quote

import msgspec

from modelway_runtime.serving.repository import version_order
from modelway_runtime.settings import (
    Batching,
    Cache,
    Digest,
    Positive,
    Queue,
    Served,
    TensorName,
    TensorSpec,
    WarmUp,
    WrongSettings,
)

FILES = {"model.onnx": "onnx", "model.safetensors": "torch", "model.pt2": "torch", "model.pt": "torch"}
"""Names of weights files, the most wanted first, and their format."""
_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,61}[A-Za-z0-9])?")


class ModelFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """``model.json``; a field that is left out has the default that is right for a laptop."""

    versions: Literal["latest", "all"] | tuple[str, ...] = "latest"
    digest: Digest | None = None
    inputs: dict[TensorName, TensorSpec] = {}
    outputs: dict[TensorName, TensorSpec] = {}
    rows: TensorName | None = None
    instances: Positive = 1
    warm_up: WarmUp = WarmUp(rows=(1, 8, 32))
    batching: Batching = Batching(max_rows=32, max_delay_ms=0, preferred_rows=())
    queue: Queue = Queue(max_rows=1024, timeout_ms=10_000)
    cache: Cache = Cache(max_bytes=0, ttl_s=0)


def scan(folder: Path) -> list[Served]:
    """The models of a folder in the versions that their policy names. Raises WrongSettings and OSError."""
    served: list[Served] = []
    for model in sorted(path for path in folder.iterdir() if path.is_dir() and path.name[0] != "."):
        if not _NAME.fullmatch(model.name):
            raise WrongSettings(
                f"{model}: a model's name has at most 63 lower-case letters, digits and dashes"
            )
        served += _versions(model)
    return served


def _versions(model: Path) -> list[Served]:
    options = _options(model / "model.json")
    found = {
        path.name: weights
        for path in model.iterdir()
        if path.is_dir() and _VERSION.fullmatch(path.name) and (weights := _weights(path)) is not None
    }
    if not found:
        raise WrongSettings(
            f"{model} has no version: put the weights into {model}/1/model.onnx or model.safetensors"
        )
    if unknown := [v for v in options.versions if v not in found and not isinstance(options.versions, str)]:
        raise WrongSettings(f"{model / 'model.json'}: there is no version {unknown[0]!r}")
    return [_served(model.name, version, found[version], options) for version in _chosen(found, options)]


def _chosen(found: dict[str, Path], options: ModelFile) -> Sequence[str]:
    if options.versions == "latest":
        return [max(found, key=version_order)]
    return sorted(found, key=version_order) if options.versions == "all" else options.versions


def _served(name: str, version: str, weights: Path, options: ModelFile) -> Served:
    fields = {key: getattr(options, key) for key in options.__struct_fields__ if key != "versions"}
    return Served(
        name=name,
        version=version,
        source="file://" + quote(str(weights.resolve())),
        format=FILES[weights.name],  # type: ignore[arg-type]  # a value of the table
        lineage_digest=None,
        **fields,
    )


def _weights(folder: Path) -> Path | None:
    return next((folder / name for name in FILES if (folder / name).is_file()), None)


def _options(path: Path) -> ModelFile:
    try:
        return msgspec.json.decode(path.read_bytes(), type=ModelFile)
    except FileNotFoundError:
        return ModelFile()
    except msgspec.DecodeError as error:
        raise WrongSettings(f"{path}: {error}") from None
