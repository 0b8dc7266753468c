"""Datatypes of the Open Inference Protocol as numpy's, and the bytes of tensors.

All bytes are little-endian and C-contiguous, as the binary tensor data extension says.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from math import prod

import ml_dtypes
import numpy as np

from modelway_runtime.serving.errors import invalid
from modelway_runtime.serving.values import Array

DTYPES: dict[str, np.dtype] = {
    "BOOL": np.dtype("?"),
    "UINT8": np.dtype("u1"),
    "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"),
    "UINT64": np.dtype("<u8"),
    "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"),
    "INT32": np.dtype("<i4"),
    "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"),
    "FP32": np.dtype("<f4"),
    "FP64": np.dtype("<f8"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "BYTES": np.dtype("O"),
}
DATATYPES = {dtype: name for name, dtype in DTYPES.items()}
MAX_DIMENSIONS = 32  # numpy 1's limit; no model needs as many
MAX_TEXTS = 2**17
"""Elements of one BYTES tensor: each takes 56 bytes of memory and more, however short it is."""
_LENGTH = struct.Struct("<I")


def dtype_of(datatype: object) -> np.dtype:
    """numpy's dtype of a datatype; raises InferenceError (400)."""
    try:
        return DTYPES[datatype]  # type: ignore[index]  # anything may be looked up; unhashable: below
    except (KeyError, TypeError):
        raise invalid(f"unknown datatype {shown(datatype)}: one of {', '.join(DTYPES)}") from None


def datatype_of(array: Array) -> str:
    """The datatype of an array; raises KeyError for a dtype that the protocol does not know."""
    return DATATYPES[array.dtype]


def checked_shape(shape: object, name: str) -> tuple[int, ...]:
    """A shape that a caller sent; raises InferenceError (400)."""
    if (
        not isinstance(shape, Sequence)
        or isinstance(shape, str | bytes)
        or len(shape) > MAX_DIMENSIONS
        or not all(type(size) is int and 0 <= size < 2**63 for size in shape)
    ):
        raise invalid(f"input {shown(name)}: the shape is a list of whole numbers from 0")
    return tuple(shape)


def check_texts(count: int, name: str) -> None:
    """Raises InferenceError (400) where a BYTES tensor has too many elements."""
    if count > MAX_TEXTS:
        raise invalid(
            f"input {shown(name)}: {count} elements of BYTES are more than {MAX_TEXTS}; send fewer rows"
        )


def from_bytes(data: memoryview, datatype: str, shape: tuple[int, ...], name: str) -> Array:
    """A tensor from its bytes, without a copy where the datatype has a fixed size.

    Raises InferenceError (400) when the bytes are not just as many as the shape needs.
    """
    if datatype == "BYTES":
        return _bytes_elements(data, shape, name)
    dtype = DTYPES[datatype]
    if prod(shape) * dtype.itemsize != len(data):
        raise invalid(
            f"input {shown(name)}: {len(data)} bytes, but {list(shape)} of {datatype} "
            f"is {prod(shape) * dtype.itemsize}"
        )
    array = reshaped(np.frombuffer(data, dtype), shape, name)
    if datatype == "BOOL" and array.size and array.view("u1").max() > 1:
        raise invalid(f"input {shown(name)}: a BOOL is a byte of 0 or 1")
    return array


def to_bytes(array: Array) -> bytes:
    """The bytes of a tensor."""
    if array.dtype == object:
        parts: list[bytes] = []
        for element in array.ravel():
            text = element if isinstance(element, bytes) else str(element).encode()
            parts += (_LENGTH.pack(len(text)), text)
        return b"".join(parts)
    return array.tobytes()


def as_served(array: Array) -> Array:
    """An output of an engine as the protocol can carry it: text as bytes, little-endian, contiguous.

    Raises KeyError for a dtype that the protocol does not know.
    """
    if array.dtype.kind in "US" or array.dtype == object:
        flat = [x if isinstance(x, bytes) else str(x).encode() for x in array.ravel().tolist()]
        return object_array(flat).reshape(array.shape)
    if array.dtype not in DATATYPES:
        array = array.astype(array.dtype.newbyteorder("<"))
    return array if array.flags.c_contiguous else np.ascontiguousarray(array)


def object_array(elements: Sequence[bytes]) -> Array:
    """A one-dimensional BYTES tensor; numpy would guess at sequences of equal length."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def _bytes_elements(data: memoryview, shape: tuple[int, ...], name: str) -> Array:
    count, at, end = prod(shape), 0, len(data)
    elements: list[bytes] = []
    check_texts(count, name)
    if count * _LENGTH.size > end:  # before anything is allocated
        raise invalid(f"input {shown(name)}: {end} bytes are too few for {count} elements of BYTES")
    for _ in range(count):
        if end - at < _LENGTH.size:
            raise invalid(f"input {shown(name)}: the bytes end before element {len(elements)}")
        (length,) = _LENGTH.unpack_from(data, at)
        at += _LENGTH.size
        if length > end - at:
            raise invalid(f"input {shown(name)}: element {len(elements)} is longer than what was sent")
        elements.append(bytes(data[at : at + length]))
        at += length
    if at != end:
        raise invalid(f"input {shown(name)}: {end - at} bytes follow the last element")
    return reshaped(object_array(elements), shape, name)


def reshaped(array: Array, shape: tuple[int, ...], name: str) -> Array:
    """Raises InferenceError (400) for sizes that numpy cannot count, as [0, 2**62, 2**62]."""
    try:
        return array.reshape(shape)
    except ValueError:
        raise invalid(f"input {shown(name)}: the shape {list(shape)} is too large") from None


def shown(value: object) -> str:
    """A caller's own value, quoted and short enough for a message."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
