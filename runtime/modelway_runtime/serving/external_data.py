"""Which other files an ONNX model keeps tensors in: a digest of the model's own file does not cover them.

The file is walked as protobuf, without a copy of it or of a tensor in memory and without the package onnx.
Only messages that may hold a tensor are entered; a test compares them with ONNX's own descriptors.
"""

from __future__ import annotations

import mmap
import os
from pathlib import PurePosixPath

from modelway_runtime.serving.wire import BYTES, NUMBER, Broken, fields

_EXTERNAL = 1  # TensorProto.DataLocation
_LOCATION_FIELD, _ENTRY_FIELD = 14, 13  # of TensorProto: data_location, external_data
CHILDREN: dict[str, dict[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto",
        22: "SparseTensorProto", 23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
}  # fmt: skip
"""Fields of a message that hold, at some depth, a tensor; by the number of the field."""


class NotOnnx(Exception):
    """The file is no protobuf message, so no ONNX model."""


class Escapes(Exception):
    """A tensor lies where a model may not point to: outside its own folder."""


def keeps(name: str, others: tuple[str, ...]) -> str:
    """Half a sentence for people: where the tensors of a model lie."""
    more = f" and {len(others) - 1} more files" if len(others) > 1 else ""
    return f"{name} keeps tensors in another file ({others[0][:80]!r}{more})"


def other_files(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """The files that an ONNX model keeps tensors in, relative to its folder, each once and in order.

    Raises NotOnnx, Escapes and OSError.
    """
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise NotOnnx
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                found = sorted(_locations(data))
            except Broken:
                raise NotOnnx from None
    for location in found:
        _check(location)
    return tuple(found)


def _check(location: str) -> None:
    parts = location.split("/")
    # onnxruntime reads addresses of memory from locations that begin with an asterisk.
    if PurePosixPath(location).is_absolute() or {"", ".", "..", "*"} & set(parts) or "\0" in location:
        raise Escapes(
            f"it keeps a tensor in {location[:80]!r}, where a model may only name a file of its own folder"
        )


def _locations(data: mmap.mmap) -> set[str]:
    """The location of every tensor that lies elsewhere; "" where it names none."""
    locations: set[str] = set()
    spans = [("ModelProto", 0, len(data))]
    while spans:
        message, at, end = spans.pop()
        if message == "TensorProto":
            locations |= _of_tensor(data, at, end)
            continue
        children = CHILDREN[message]
        for field, kind, value, after in fields(data, at, end):
            child = children.get(field)
            if child is not None and kind == BYTES:
                spans.append((child, value, after))
    return locations


def _of_tensor(data: mmap.mmap, at: int, end: int) -> set[str]:
    external = False
    locations: set[str] = set()
    for field, kind, value, after in fields(data, at, end):
        if field == _LOCATION_FIELD and kind == NUMBER:
            external |= value & 0xFFFFFFFF == _EXTERNAL  # protobuf cuts a number off where an enum is due
        elif field == _ENTRY_FIELD and kind == BYTES:
            locations |= _of_entry(data, value, after)
    return (locations or {""}) if external else set()


def _of_entry(data: mmap.mmap, at: int, end: int) -> set[str]:
    """The value of a StringStringEntryProto whose key is ``location``."""
    texts: dict[int, str] = {}
    for field, kind, value, after in fields(data, at, end):
        if kind == BYTES:
            texts[field] = data[value:after].decode(errors="replace")
    return {texts.get(2, "")} if texts.get(1) == "location" else set()
