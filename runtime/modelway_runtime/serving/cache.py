"""Answers kept for requests with exactly the same tensors."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Iterable

from modelway_runtime.serving.tensors import to_bytes
from modelway_runtime.serving.values import Array, Arrays

KEY_BYTES = 16
"""128 bits: two different requests share a key about once in 10^19 requests."""
_ENTRY_BYTES = 512  # Python's own objects around one kept answer, roughly


def key_of(inputs: Arrays, wanted: Iterable[str]) -> bytes:
    """A digest of names, datatypes, shapes and contents; the order of the inputs does not matter."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for name in sorted(inputs):
        array = inputs[name]
        digest.update(repr((name, array.dtype.str, str(array.dtype), array.shape)).encode())
        simple = array.dtype.kind in "biuf" and array.flags.c_contiguous
        digest.update(array.data if simple else to_bytes(array))
    digest.update(repr(tuple(wanted)).encode())
    return digest.digest()


class ResponseCache:
    """The least recently used answers go when ``max_bytes`` are full; each lives ``ttl_s`` (0: for ever)."""

    def __init__(self, max_bytes: int, ttl_s: float) -> None:
        self._max_bytes = max_bytes
        self._ttl_s = ttl_s or float("inf")
        self._entries: OrderedDict[bytes, tuple[float, int, Arrays]] = OrderedDict()
        self.bytes = 0

    def get(self, key: bytes) -> Arrays | None:
        entry = self._entries.get(key)
        if entry is None:
            return None
        expires, size, outputs = entry
        if expires < time.monotonic():
            del self._entries[key]
            self.bytes -= size
            return None
        self._entries.move_to_end(key)
        return outputs

    def put(self, key: bytes, outputs: Arrays) -> None:
        """Keep an answer, if it has room. The arrays are copied: they may be slices of a batch."""
        size = _ENTRY_BYTES + sum(map(_size, outputs.values()))
        if size > self._max_bytes or key in self._entries:
            return
        while self.bytes + size > self._max_bytes:
            _, (_, freed, _) = self._entries.popitem(last=False)
            self.bytes -= freed
        kept = {name: array.copy() for name, array in outputs.items()}
        self._entries[key] = (time.monotonic() + self._ttl_s, size, kept)
        self.bytes += size

    def __len__(self) -> int:
        return len(self._entries)


def _size(array: Array) -> int:
    if array.dtype == object:
        return sum(len(element) + 40 for element in array.ravel())
    return array.nbytes
