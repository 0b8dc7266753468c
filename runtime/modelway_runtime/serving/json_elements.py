"""The elements of a tensor in JSON, as its datatype and shape say that they are.

The datatype decides before numpy sees anything: numpy would guess, and give every element of a list as much
room as the longest text in it takes. Text (of a long body) is read piece by piece, after its brackets and
quotes have been counted: what is made of it is never more than the tensor and one piece.
"""

from __future__ import annotations

import re
from array import array as typed
from collections.abc import Iterator
from itertools import chain
from math import nan
from typing import Any

import numpy as np
import orjson
from msgspec import Raw

from modelway_runtime.serving.errors import InferenceError, invalid
from modelway_runtime.serving.json_body import WHOLE_BYTES, parsed
from modelway_runtime.serving.tensors import DTYPES, MAX_DIMENSIONS, check_texts, object_array, shown
from modelway_runtime.serving.values import Array

FLOATS = frozenset({"FP32", "FP64"})
INTEGERS = frozenset({"UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"})
_PIECE = 64 * 1024
_MAX_PIECE = 1024 * 1024  # between two commas: a number, or space
_SPACE = b" \t\r\n"
_NUMBER = {
    **dict.fromkeys(FLOATS, b"0123456789+-.eEnul" + _SPACE),
    **dict.fromkeys(INTEGERS, b"0123456789-" + _SPACE),
    "BOOL": b"truefals" + _SPACE,
}
_STRING = re.compile(rb'"[^"]*"')
_HIGH_SURROGATES = (b"\\ud8", b"\\ud9", b"\\uda", b"\\udb")


def from_json(data: object, datatype: str, count: int, name: str) -> Array:
    """The elements in one dimension. ``data`` is a list, or the text of one.

    Raises InferenceError (400) where they are not ``count`` elements of the datatype, flat or in lists of
    equal length.
    """
    if isinstance(data, Raw) and len(memoryview(data)) <= WHOLE_BYTES:
        data = parsed(data)
    if isinstance(data, Raw):
        text = memoryview(data)
        return _texts(text, count, name) if datatype == "BYTES" else _numbers(text, datatype, count, name)
    if not isinstance(data, list):
        raise invalid(f"input {shown(name)} has neither `data` nor binary_data_size")
    elements = _flat(data, datatype, name)
    if len(elements) != count:
        raise _other_count(len(elements), count, name)
    if datatype != "BYTES":
        return _typed(elements, datatype, name)
    if not all(type(element) is str for element in elements):
        raise _wrong(datatype, name)
    return object_array([element.encode() for element in elements])


# A list


def _flat(data: list[Any], datatype: str, name: str) -> list[Any]:
    """The elements of nested lists, whose depth the JSON parser has bounded."""
    while data and type(data[0]) is list:
        if set(map(type, data)) != {list} or len(set(map(len, data))) != 1:
            raise _wrong(datatype, name)
        data = list(chain.from_iterable(data))
    return data


def _typed(data: list[Any], datatype: str, name: str) -> Array:
    """Numbers of a list. Whole numbers are not rounded, and no text is taken for one."""
    dtype = DTYPES[datatype]
    try:
        if datatype == "BOOL":
            if not all(type(element) is bool for element in data):
                raise _wrong(datatype, name)
            return np.array(data, dtype)
        if data and type(data[0]) is bool:
            raise _wrong(datatype, name)
        if datatype in FLOATS:
            with np.errstate(over="ignore"):
                return _floats(data).astype(dtype, copy=False)
        if datatype == "UINT64":
            return np.frombuffer(typed("Q", data), dtype)
        numbers = np.frombuffer(typed("q", data), np.int64)
    except (TypeError, OverflowError):  # another type, or beyond 64 bits
        raise _wrong(datatype, name) from None
    if datatype != "INT64" and numbers.size:
        limits = np.iinfo(dtype)
        if numbers.min() < limits.min or numbers.max() > limits.max:
            raise invalid(f"input {shown(name)}: a number of `data` does not fit {datatype}")
    return numbers.astype(dtype, copy=False)


def _floats(data: list[Any]) -> Array:
    """JSON has no NaN; null stands for it, as in our answers. Raises TypeError."""
    try:
        return np.frombuffer(typed("d", data), np.float64)
    except TypeError:
        return np.frombuffer(typed("d", [nan if value is None else value for value in data]), np.float64)


# Text


def _numbers(text: memoryview, datatype: str, count: int, name: str) -> Array:
    nested = any(b"[" in part for part in _slices(text[1:]))
    if nested:
        _check_lists(text, datatype, count, name)
    if count > len(text) // 2:
        raise _other_count(len(text) // 2, count, name)
    array = np.empty(count, DTYPES[datatype])
    filled = 0
    for piece in _pieces(text if nested else text[1:-1]):
        if len(piece) > _MAX_PIECE:
            raise _wrong(datatype, name)
        plain = piece.translate(None, b"[]") if nested else piece
        try:
            values = orjson.loads(b"".join((b"[", plain, b"]")))
        except orjson.JSONDecodeError:  # a list without elements among others
            raise _wrong(datatype, name) from None
        part = _typed(values, datatype, name)
        if filled + len(part) > count:
            raise _other_count(filled + len(part), count, name)
        array[filled : filled + len(part)] = part
        filled += len(part)
    if filled < count:
        raise _other_count(filled, count, name)
    return array


def _check_lists(text: memoryview, datatype: str, count: int, name: str) -> None:
    skeleton = b"".join(part.translate(None, _NUMBER[datatype]) for part in _slices(text))
    if skeleton.translate(None, b"[],"):
        raise _wrong(datatype, name)
    elements = _count(skeleton, datatype, name)
    if elements != count:
        raise _other_count(elements, count, name)


def _slices(text: memoryview) -> Iterator[bytes]:
    for at in range(0, len(text), _PIECE):
        yield bytes(text[at : at + _PIECE])


def _pieces(text: memoryview) -> Iterator[bytes]:
    """The text, cut at commas, which it does not contain."""
    rest: list[bytes] = []
    for part in _slices(text):
        cut = part.rfind(b",")
        if cut >= 0 or len(rest) > _MAX_PIECE // _PIECE:
            yield b"".join((*rest, part[:cut]))
            rest.clear()
        rest.append(part[cut + 1 :])
    yield b"".join(rest)


def _texts(text: memoryview, count: int, name: str) -> Array:
    check_texts(count, name)
    quotes = sum(part.count(b'"') - part.count(b'\\"') for part in _slices(text))
    if quotes > 2 * count + len(text) // _PIECE + 1:  # a slice may part a quote from its backslash
        raise _other_count(quotes // 2, count, name)
    # What is escaped is masked, so that each quote begins or ends a string; nothing changes its place.
    masked = bytes(text).replace(b"\\\\", b"__").replace(b'\\"', b"__")
    elements = _flat_texts(text, masked)
    if elements is None:
        elements = _nested_texts(text, masked, name)
    if len(elements) != count:
        raise _other_count(len(elements), count, name)
    return object_array(elements)


def _flat_texts(text: memoryview, masked: bytes) -> list[bytes] | None:
    """The strings of a list; None where it holds something else."""
    elements: list[bytes] = []
    at, end = 1, len(masked) - 1
    while at < end:
        stop = min(at + _PIECE, end)
        last = masked.rfind(b'"', at, stop)
        if last >= 0 and masked.count(b'"', at, stop) % 2:  # it begins a string; the one before it ends one
            last = masked.rfind(b'"', at, last)
        if last < 0:
            first = masked.find(b'"', at)
            last = masked.find(b'"', first + 1)
            if first < 0 or masked[at:first].strip(b"," + _SPACE):
                return elements if not masked[at:end].strip(_SPACE) else None
            elements.append(_content(text[first + 1 : last]))
        else:
            piece = bytes(text[at : last + 1]).lstrip(b"," + _SPACE)
            try:
                values = orjson.loads(b"".join((b"[", piece, b"]")))
            except orjson.JSONDecodeError:
                return None
            if set(map(type, values)) != {str}:
                return None
            elements += [value.encode() for value in values]
        at = last + 1
    return elements


def _nested_texts(text: memoryview, masked: bytes, name: str) -> list[bytes]:
    """The strings of lists of equal length, one by one."""
    elements: list[bytes] = []
    skeleton, at = bytearray(), 0
    for string in _STRING.finditer(masked):
        elements.append(_content(text[string.start() + 1 : string.end() - 1]))
        skeleton += masked[at : string.start()]
        skeleton += b'"'
        at = string.end()
    skeleton += masked[at:]
    skeleton = skeleton.translate(None, _SPACE)
    if skeleton.translate(None, b'[],"'):
        raise _wrong("BYTES", name)
    if _count(bytes(skeleton.translate(None, b'"')), "BYTES", name) != len(elements):
        raise _wrong("BYTES", name)
    return elements


def _content(text: memoryview) -> bytes:
    """A string in UTF-8, from what is between its quotes. Raises InferenceError (400)."""
    parts: list[bytes] = []
    while text:
        part = bytes(text[:_PIECE])
        if len(part) < len(text):
            part = part[: _end(part, text[_PIECE])]
        text = text[len(part) :]
        if not part.isascii() or b"\\" in part:
            try:
                part = orjson.loads(b'"' + part + b'"').encode()
            except orjson.JSONDecodeError as error:
                raise invalid(f"the body is not JSON: {error}") from None
        parts.append(part)
    return b"".join(parts)


def _end(part: bytes, following: int) -> int:
    """Where a part of a string may end: within neither an escape, nor a pair of them, nor a character."""
    end = len(part)
    escape = part.replace(b"\\\\", b"__").rfind(b"\\", end - 6)
    if escape >= 0:
        high = part[escape - 6 : escape - 2].lower() in _HIGH_SURROGATES
        return escape - 6 if high else escape
    while end > _PIECE - 4 and following & 0xC0 == 0x80:
        end -= 1
        following = part[end]
    return end


def _count(skeleton: bytes, datatype: str, name: str) -> int:
    """How many elements are in lists of equal length of which only brackets and commas are left.

    What the first list of each depth says of all its neighbours is built and compared. Lists that are
    empty count as lists of one: the elements that are missing are missed when they are read.
    """
    depth = len(skeleton) - len(skeleton.lstrip(b"["))
    end = skeleton.find(b"]")
    unit = skeleton[depth - 1 : end + 1]
    count = len(unit) - 1
    if depth > MAX_DIMENSIONS or unit.count(b"[") != 1:
        raise _wrong(datatype, name)
    for start in range(depth - 2, -1, -1):
        closing = b"]" * (depth - start)
        end = skeleton.find(closing, start)
        size = end + len(closing) - start
        times, rest = divmod(size - 1, len(unit) + 1)
        if end < 0 or rest:
            raise _wrong(datatype, name)
        unit = b"".join((b"[", (unit + b",") * (times - 1), unit, b"]"))
        count *= times
    if unit != skeleton:
        raise _wrong(datatype, name)
    return count


def _other_count(elements: int, count: int, name: str) -> InferenceError:
    return invalid(f"input {shown(name)}: {elements} elements where its shape has {count}")


def _wrong(datatype: str, name: str) -> InferenceError:
    return invalid(
        f"input {shown(name)}: `data` is not a list of {datatype}, flat or in lists of equal length"
    )
