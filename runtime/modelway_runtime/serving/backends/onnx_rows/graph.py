"""The operators of an ONNX file, read without its weights: what may depend on what.

The file is a Protocol Buffers message (onnx.proto, whose field numbers never change). Weights are passed
over and only small constants are decoded, so a file of gigabytes costs milliseconds and no memory.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec
import numpy as np

from modelway_runtime.serving import wire

Numbers: TypeAlias = tuple[int, ...]
Field: TypeAlias = tuple[int, int | bytes]

SMALL = 64
"""Elements of a constant whose values are decoded: shapes and axes have no more."""
_DTYPES = {2: "u1", 3: "i1", 4: "<u2", 5: "<i2", 6: "<i4", 7: "<i8", 9: "?", 12: "<u4", 13: "<u8"}
"""Element types of onnx.proto whose constants may be shapes or axes."""


class NotReadable(Exception):
    """The file is not a graph that this module understands."""


class Constant(msgspec.Struct, frozen=True):
    """A tensor of the file; ``numbers`` are its elements where they are few and whole."""

    shape: Numbers
    numbers: Numbers | None


class Node(msgspec.Struct, frozen=True):
    """One operator. An input or output that is left out has an empty name."""

    operator: str
    domain: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, bytes]

    def integer(self, name: str, default: int) -> int:
        value = self._field(name, 3)
        return _signed(value) if isinstance(value, int) else default

    def integers(self, name: str) -> Numbers | None:
        return _repeated(self.attributes[name], 8) if name in self.attributes else None

    def text(self, name: str) -> str:
        value = self._field(name, 4)
        return value.decode(errors="replace") if isinstance(value, bytes) else ""

    def tensor(self, name: str) -> Constant | None:
        value = self._field(name, 5)
        return _tensor(_fields(value))[1] if isinstance(value, bytes) else None

    def _field(self, name: str, number: int) -> int | bytes | None:
        fields = _fields(self.attributes.get(name, b""))
        return next((value for key, value in fields if key == number), None)


class Graph(msgspec.Struct, frozen=True):
    """Nodes in the order in which they are computed. ``opset`` is the version of the standard operators."""

    opset: int
    nodes: tuple[Node, ...]
    constants: dict[str, Constant]
    outputs: tuple[str, ...]


def read(path: Path) -> Graph:
    """The graph of a file. Raises NotReadable and OSError."""
    with path.open("rb") as file:
        if not os.fstat(file.fileno()).st_size:
            raise NotReadable("the file is empty")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _model(data)
            except (LookupError, ValueError, TypeError, OverflowError) as error:
                raise NotReadable(f"not a graph of ONNX: {error}") from None


def _model(data: mmap.mmap) -> Graph:
    opset, graph = 0, None
    for number, kind, value, after in wire.fields(data, 0, len(data)):
        if number == 7 and kind == wire.BYTES:
            graph = _graph(data, value, after)
        elif number == 8 and kind == wire.BYTES:
            fields = dict(_fields(data[value:after]))
            if fields.get(1, b"") in (b"", b"ai.onnx"):
                opset = _whole(fields.get(2, 0))
    if graph is None:
        raise NotReadable("it holds no graph")
    return msgspec.structs.replace(graph, opset=opset)


def _graph(data: mmap.mmap, at: int, end: int) -> Graph:
    nodes: list[Node] = []
    constants: dict[str, Constant] = {}
    outputs: list[str] = []
    for number, _, value, after in wire.fields(data, at, end):
        if number == 1:
            nodes.append(_node(data[value:after]))
        elif number == 5:
            name, constant = _tensor(_small_fields(data, value, after))
            constants[name] = constant
        elif number == 12:
            outputs.append(_text(dict(_fields(data[value:after])).get(1, b"")))
    return Graph(0, tuple(nodes), constants, tuple(outputs))


def _node(message: bytes) -> Node:
    texts: dict[int, list[str]] = {1: [], 2: [], 3: [], 4: [], 7: []}
    attributes: dict[str, bytes] = {}
    for number, value in _fields(message):
        if number in texts:
            texts[number].append(_text(value))
        elif number == 5 and isinstance(value, bytes):
            attributes[_text(next((v for key, v in _fields(value) if key == 1), b""))] = value
    name, operator, domain = (("".join(texts[number])) for number in (3, 4, 7))
    return Node(operator, domain, name, tuple(texts[1]), tuple(texts[2]), attributes)


def _tensor(fields: Iterator[Field]) -> tuple[str, Constant]:
    """A TensorProto's name, and what is known of it."""
    name, kind, data = "", 0, b""
    shape: list[int] = []
    listed: list[int] = []
    for number, value in fields:
        if number == 1:
            shape += [_signed(value)] if isinstance(value, int) else _packed(value)
        elif number == 2:
            kind = _whole(value)
        elif number == 8:
            name = _text(value)
        elif number == 9 and isinstance(value, bytes):
            data = value
        elif number in (5, 7, 11):
            listed += [_signed(value)] if isinstance(value, int) else _packed(value)
    count = int(np.prod(shape, dtype=np.int64))
    numbers: Numbers | None = None
    if kind in _DTYPES and count <= SMALL:
        elements = np.frombuffer(data, _DTYPES[kind]).tolist() if data else listed
        numbers = tuple(int(element) for element in elements) if len(elements) == count else None
    return name, Constant(tuple(shape), numbers)


def _small_fields(data: mmap.mmap, at: int, end: int) -> Iterator[Field]:
    """The fields of a message in a file but for those that are large."""
    for number, kind, value, after in wire.fields(data, at, end):
        if kind == wire.NUMBER:
            yield number, value
        elif after - value <= max(8 * SMALL, 1024):
            yield number, data[value:after]


def _fields(message: bytes) -> Iterator[Field]:
    for number, kind, value, after in wire.fields(message, 0, len(message)):
        yield number, value if kind == wire.NUMBER else message[value:after]


def _repeated(message: bytes, number: int) -> Numbers:
    numbers: list[int] = []
    for key, value in _fields(message):
        if key == number:
            numbers += [_signed(value)] if isinstance(value, int) else _packed(value)
    return tuple(numbers)


def _packed(data: bytes) -> list[int]:
    numbers, at = [], 0
    while at < len(data):
        value, at = wire.varint(data, at, len(data))
        numbers.append(_signed(value))
    return numbers


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


def _whole(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise ValueError("a number was expected")  # noqa: TRY004  # of the file, not of a caller
    return value


def _text(value: int | bytes) -> str:
    if not isinstance(value, bytes):
        raise ValueError("a text was expected")  # noqa: TRY004  # of the file, not of a caller
    return value.decode(errors="replace")
