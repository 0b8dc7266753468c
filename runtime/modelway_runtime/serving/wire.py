"""The wire format of Protocol Buffers: the fields of a message, whatever its type is.

For messages that must be looked at before they are parsed, or that are too large for it.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from typing import TypeAlias

Buffer: TypeAlias = bytes | memoryview | mmap.mmap
NUMBER, EIGHT_BYTES, BYTES, GROUP, GROUP_END, FOUR_BYTES = range(6)
"""Kinds of fields."""
_SIZES = {EIGHT_BYTES: 8, FOUR_BYTES: 4}


class Broken(ValueError):
    """The bytes are no message."""


def fields(data: Buffer, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Of each field in ``data[at:end]`` the number, the kind, the value and where it ends.

    The value of any kind but NUMBER is where its bytes begin. Raises Broken.
    """
    while at < end:
        tag, at = varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        if kind == NUMBER:
            value, after = varint(data, at, end)
        else:
            value, after = _skip(data, at, end, kind)
        if not number or after > end:
            raise Broken("a field is longer than its message")
        yield number, kind, value, after
        at = after


def varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """A number and where it ends. Raises Broken."""
    value = shift = 0
    while at < end and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    raise Broken("a number does not end")


def _skip(data: Buffer, at: int, end: int, kind: int) -> tuple[int, int]:
    """Where the bytes of a value begin and end."""
    if kind == BYTES:
        size, at = varint(data, at, end)
        return at, at + size
    if kind in _SIZES:
        return at, at + _SIZES[kind]
    if kind == GROUP:
        return at, _group_end(data, at, end)
    raise Broken("a field is of no kind")


def _group_end(data: Buffer, at: int, end: int) -> int:
    """Where a group ends. Nobody writes groups any more, but protobuf reads past them."""
    depth = 1
    while depth:
        tag, at = varint(data, at, end)
        kind = tag & 7
        if kind in (GROUP, GROUP_END):
            depth += 1 if kind == GROUP else -1
        elif kind == NUMBER:
            _, at = varint(data, at, end)
        else:
            _, at = _skip(data, at, end, kind)
    return at
