"""The Open Inference Protocol for peers that lack it: one input and one output of 32-bit floats."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

try:
    import orjson
except ImportError:
    orjson = None


def read(body: bytes, header_length: str | None = None) -> np.ndarray:
    """The rows of a request; with a header's length, they follow the JSON as bytes."""
    end = len(body) if header_length is None else int(header_length)
    document = _load(body[:end])
    tensor = document["inputs"][0]
    if header_length is None:
        return np.array(tensor["data"], np.float32).reshape(tensor["shape"])
    return np.frombuffer(body, np.float32, offset=end).reshape(tensor["shape"])


def output(rows: np.ndarray, model: str) -> dict[str, Any]:
    """An answer in JSON, as a value."""
    tensor = {"name": "output", "datatype": "FP32", "shape": list(rows.shape), "data": rows.ravel().tolist()}
    return {"model_name": model, "model_version": "1", "outputs": [tensor]}


def write(rows: np.ndarray, model: str, *, binary: bool) -> tuple[bytes, dict[str, str]]:
    """An answer and its headers."""
    if not binary:
        return _dump(output(rows, model)), {"content-type": "application/json"}
    tensor = {"name": "output", "datatype": "FP32", "shape": list(rows.shape)}
    tensor["parameters"] = {"binary_data_size": rows.nbytes}
    head = _dump({"model_name": model, "model_version": "1", "outputs": [tensor]})
    headers = {"content-type": "application/octet-stream", "inference-header-content-length": str(len(head))}
    return head + rows.tobytes(), headers


def _load(text: bytes) -> Any:
    return orjson.loads(text) if orjson else json.loads(text)


def _dump(value: Any) -> bytes:
    return orjson.dumps(value) if orjson else json.dumps(value, separators=(",", ":")).encode()
