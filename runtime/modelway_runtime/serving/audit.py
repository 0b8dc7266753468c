"""The audit log: one JSON line per request, written by a thread of its own.

``record`` keeps what a line needs and no large tensor; lines are made many at a time, which costs a
quarter of making each alone between two requests, and a thread writes them. A stream that
takes nothing costs lines, which are counted, never requests.
"""

from __future__ import annotations

import fcntl
import os
import select
import stat
import struct
import termios
import threading
import time
from collections import deque
from collections.abc import Iterator
from functools import lru_cache
from math import inf, isfinite
from typing import Any, NamedTuple, TypeAlias

import msgspec
import numpy as np
import orjson

from modelway_runtime.serving.tensors import DATATYPES
from modelway_runtime.serving.values import Array, Arrays, InferenceRequest, InferenceResponse

MAX_WAITING = 10_000
WRITE_AT = 1000
MAKE_AT = 64
KEPT_BYTES = 4096
WRITE_EVERY_S = 0.1
MAX_WRITE_BYTES = 65536  # each write hands the interpreter over and back: few large ones
VALUES = 8
CHARACTERS = 64
MASKED = "***"
_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY


class AuditEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One request and how it ended. ``reason``: why it was rejected; ``time``: seconds since 1970."""

    request_id: str
    client: str
    model: str
    version: str
    protocol: str
    method: str
    status: int
    reason: str | None
    duration_s: float
    traceparent: str
    time: float = msgspec.field(default_factory=time.time)


class Large(NamedTuple):
    """What is kept of a tensor that is too large to be held until its line is made."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    first: Array | list[str]


Tensors: TypeAlias = dict[str, Array | Large]
Kept: TypeAlias = tuple[AuditEntry, Tensors | None, Tensors | None, str | None]


class AuditLog:
    """Writes to ``stream_fd`` until ``close``; the descriptor stays open. ``mask`` names tensors.

    Killed, it leaves whole lines: what goes into a pipe is either no longer than what the kernel takes in
    one piece (4 KiB) or fits into the empty pipe. A longer line, or a file on a full disk, may be cut.
    """

    def __init__(self, stream_fd: int, mask: frozenset[str]) -> None:
        self._fd = stream_fd
        self._mask = mask
        self._entries: deque[Kept] = deque()
        self._making = threading.Lock()
        self._waiting: deque[bytes] = deque()
        self._dropped = 0
        self._reported = 0
        self._wake = threading.Event()
        self._deadline: float | None = None
        self._capacity = _pipe_capacity(stream_fd)
        self._regular = stat.S_ISREG(os.fstat(stream_fd).st_mode)
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def record(
        self,
        entry: AuditEntry,
        request: InferenceRequest | None = None,
        response: InferenceResponse | None = None,
    ) -> None:
        """Take an entry; never blocks or raises. To be called by one thread, the event loop's."""
        if len(self._waiting) + len(self._entries) >= MAX_WAITING or self._deadline is not None:
            self._dropped += 1
            return
        try:
            inputs = None if request is None else _small(request.inputs)
            outputs = None if response is None else _small(response.outputs)
            self._entries.append((entry, inputs, outputs, None if response is None else response.served_by))
        except Exception:  # noqa: BLE001  # a request must not fail for its log line
            self._dropped += 1
        if len(self._entries) >= MAKE_AT:
            self._make_lines()

    def close(self, timeout_s: float) -> None:
        """Write what waits, for at most this long, and end the thread; later entries are dropped."""
        self._deadline = time.monotonic() + timeout_s
        self._wake.set()
        self._thread.join(timeout_s)

    def _make_lines(self) -> None:
        """What was recorded becomes lines; if the other thread is about it, it will do."""
        if not self._making.acquire(blocking=False):
            return
        try:
            for _ in range(len(self._entries)):
                kept = self._entries.popleft()
                try:
                    self._waiting.append(self._line(*kept))
                except Exception:  # noqa: BLE001  # one odd entry must not end the log
                    self._dropped += 1
        finally:
            self._making.release()
        if len(self._waiting) >= WRITE_AT:
            self._wake.set()

    def _run(self) -> None:
        while True:
            self._wake.wait(WRITE_EVERY_S)
            closing = self._deadline is not None
            self._wake.clear()
            while self._entries:
                self._make_lines()
            for lines in self._batches():
                if not self._write(lines):
                    return
            if closing:
                return

    def _batches(self) -> Iterator[list[bytes]]:
        """What waits now as lines, up to a write's worth at a time, and what has been lost meanwhile."""
        while self._waiting or self._dropped > self._reported:
            lines: list[bytes] = []
            size = 0
            while self._waiting and size < MAX_WRITE_BYTES:
                line = self._waiting.popleft()
                lines.append(line)
                size += len(line)
            gone = self._dropped
            if gone > self._reported:
                dropped = {"event": "audit_dropped", "count": gone - self._reported}
                lines.append(orjson.dumps(dropped, option=_OPTIONS))
                self._reported = gone
            yield lines

    def _line(
        self, entry: AuditEntry, inputs: Tensors | None, outputs: Tensors | None, served_by: str | None
    ) -> bytes:
        document = {
            "event": "inference",
            "time": _moment(entry.time),
            "request_id": entry.request_id,
            "trace_id": _trace_id(entry.traceparent) if entry.traceparent else "",
            "client": entry.client,
            "model": entry.model,
            "version": entry.version,
            "protocol": entry.protocol,
            "method": entry.method,
            "status": entry.status,
            "reason": entry.reason,
            "duration_s": entry.duration_s,
            "rows": 0 if inputs is None else _rows(inputs),
            "served_by": served_by,
            "inputs": None if inputs is None else self._tensors(inputs),
            "outputs": None if outputs is None else self._tensors(outputs),
        }
        try:
            return orjson.dumps(document, option=_OPTIONS)
        except orjson.JSONEncodeError:  # half a surrogate pair in some text
            return orjson.dumps(_printable(document), option=_OPTIONS)

    def _tensors(self, tensors: Tensors) -> dict[str, Any]:
        return {
            name: {
                "datatype": DATATYPES.get(tensor.dtype) or str(tensor.dtype),
                "shape": tensor.shape,
                "values": MASKED if name in self._mask else _values(tensor),
            }
            for name, tensor in tensors.items()
        }

    def _write(self, lines: list[bytes]) -> bool:
        """Write lines, however long the stream makes it wait; False when ``close`` waits no longer."""
        at = 0
        while at < len(lines):
            room = self._room()
            end, size = at + 1, len(lines[at])
            while end < len(lines) and size + len(lines[end]) <= room:
                size += len(lines[end])
                end += 1
            if not self._write_all(memoryview(b"".join(lines[at:end]))):
                return False
            at = end
        return True

    def _write_all(self, data: memoryview) -> bool:
        while data:
            try:
                if self._writable():
                    data = data[os.write(self._fd, data[:MAX_WRITE_BYTES]) :]
            except OSError:  # a full disk, a closed pipe: like a stream that takes nothing
                time.sleep(WRITE_EVERY_S)
            if data and self._deadline is not None and time.monotonic() >= self._deadline:
                return False
        return True

    def _writable(self) -> bool:
        if self._regular:
            return True
        poll = select.poll()
        poll.register(self._fd, select.POLLOUT)
        return bool(poll.poll(WRITE_EVERY_S * 1000))

    def _room(self) -> int:
        """Bytes that the stream takes in one piece."""
        if self._capacity is None:
            return MAX_WRITE_BYTES
        try:
            (unread,) = struct.unpack("i", fcntl.ioctl(self._fd, termios.FIONREAD, b"\0\0\0\0"))
        except OSError:
            return select.PIPE_BUF
        return select.PIPE_BUF if unread else min(self._capacity, MAX_WRITE_BYTES)


def _pipe_capacity(fd: int) -> int | None:
    """The bytes that a pipe holds; None for anything else."""
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        return None
    return fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ) if hasattr(fcntl, "F_GETPIPE_SZ") else select.PIPE_BUF


def _moment(seconds: float) -> str:
    """RFC 3339 in UTC with microseconds."""
    whole, micros = divmod(round(seconds * 1e6), 1_000_000)
    return f"{_second(whole)}.{micros:06d}Z"


@lru_cache(maxsize=4)  # the entries of one second come together
def _second(whole: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(whole))


def _trace_id(traceparent: str) -> str:
    """The trace's id of a W3C ``traceparent`` (version-trace-span-flags), empty where there is none."""
    parts = traceparent.split("-")
    return parts[1] if len(parts) >= 4 and len(parts[1]) == 32 else ""


def _small(arrays: Arrays) -> Tensors:
    """The tensors; of a large one the first elements only, and of text no more than is written."""
    if all(array.nbytes <= KEPT_BYTES and not array.dtype.hasobject for array in arrays.values()):
        return dict(arrays)
    return {name: Large(array.dtype, array.shape, _first(array)) for name, array in arrays.items()}


def _first(array: Array) -> Array | list[str]:
    first = array.flat[:VALUES]  # a copy
    return [_text(value) for value in first] if array.dtype.hasobject else first


def _rows(inputs: Tensors) -> int:
    for tensor in inputs.values():
        return tensor.shape[0] if tensor.shape else 1
    return 0


def _values(tensor: Array | Large) -> Array | list[Any]:
    """The first values as orjson writes them best; NaN and infinity, which JSON lacks, as text."""
    if isinstance(tensor, Large):
        values = tensor.first
    else:
        values = tensor.ravel()[:VALUES] if tensor.flags.c_contiguous else tensor.flat[:VALUES]
    if isinstance(values, list) or values.dtype.kind in "biu":
        return values
    if values.dtype not in DATATYPES:
        return [_text(value) for value in values]
    if values.dtype.kind != "f":  # BF16
        values = values.astype(np.float32)
    if isfinite(sum(values.tolist())):
        return values  # with the shortest digits of its own width
    return [value if isfinite(value) else _not_finite(float(value)) for value in values]


def _not_finite(value: float) -> str:
    return {inf: "Infinity", -inf: "-Infinity"}.get(value, "NaN")


def _text(value: object) -> str:
    """The first characters of an element, without holding on to the rest."""
    if isinstance(value, bytes):  # a character has at most four bytes
        value = value[: 4 * CHARACTERS].decode(errors="backslashreplace")
    return str(value)[:CHARACTERS]


def _printable(value: Any) -> Any:
    """The same document with text that UTF-8 can hold."""
    if isinstance(value, str):
        return value.encode(errors="backslashreplace").decode()
    if isinstance(value, dict):
        return {_printable(key): _printable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_printable(item) for item in value]
    return value
