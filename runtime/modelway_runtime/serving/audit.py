"""The audit log: one JSON line per request, written by a thread of its own.

``record`` keeps what a line needs and no tensor; formatting and writing happen later. A stream that
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
from typing import Any, TypeAlias

import msgspec
import numpy as np
import orjson

from modelway_runtime.serving.tensors import DATATYPES
from modelway_runtime.serving.values import Array, Arrays, InferenceRequest, InferenceResponse

MAX_WAITING = 10_000
WRITE_AT = 1000
WRITE_EVERY_S = 0.1
MAX_WRITE_BYTES = 65536
VALUES = 8
CHARACTERS = 64
MASKED = "***"
_OPTIONS = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
_LINES_A_TURN = 32


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


# Plain tuples, as they are made for every request: a tensor's name, dtype, shape and first values (None
# where it is masked); and an entry, its ``served_by``, its inputs and its outputs.
Summary: TypeAlias = tuple[str, np.dtype[Any], tuple[int, ...], Array | list[str] | None]
Waiting: TypeAlias = tuple[AuditEntry, str | None, list[Summary] | None, list[Summary] | None]


class AuditLog:
    """Writes to ``stream_fd`` until ``close``; the descriptor stays open. ``mask`` names tensors.

    Killed, it leaves whole lines: what goes into a pipe is either no longer than what the kernel takes in
    one piece (4 KiB) or fits into the empty pipe. A longer line, or a file on a full disk, may be cut.
    """

    def __init__(self, stream_fd: int, mask: frozenset[str]) -> None:
        self._fd = stream_fd
        self._mask = mask
        self._waiting: deque[Waiting] = deque()
        self._dropped = 0  # counted by record alone; what the writer loses it counts itself
        self._lost = 0
        self._reported = 0
        self._wake = threading.Event()
        self._deadline: float | None = None
        self._capacity = _pipe_capacity(stream_fd)
        self._thread = threading.Thread(target=self._run, name="audit", daemon=True)
        self._thread.start()

    def record(
        self,
        entry: AuditEntry,
        request: InferenceRequest | None = None,
        response: InferenceResponse | None = None,
    ) -> None:
        """Take an entry; never blocks or raises. To be called by one thread, the event loop's."""
        waiting = self._waiting
        if len(waiting) >= MAX_WAITING or self._deadline is not None:
            self._dropped += 1
            return
        try:
            waiting.append(
                (
                    entry,
                    None if response is None else response.served_by,
                    None if request is None else self._summaries(request.inputs),
                    None if response is None else self._summaries(response.outputs),
                )
            )
        except Exception:  # noqa: BLE001  # a request must not fail for its log line
            self._dropped += 1
            return
        if len(waiting) >= WRITE_AT:
            self._wake.set()

    def close(self, timeout_s: float) -> None:
        """Write what waits, for at most this long, and end the thread; later entries are dropped."""
        self._deadline = time.monotonic() + timeout_s
        self._wake.set()
        self._thread.join(timeout_s)

    def _summaries(self, arrays: Arrays) -> list[Summary]:
        """The first values are copied: the tensors themselves may be large."""
        summaries: list[Summary] = []
        for name, array in arrays.items():  # a plain loop: the event loop pays for it
            dtype = array.dtype
            values: Array | list[str] | None = None if name in self._mask else array.flat[:VALUES]
            if dtype.hasobject and values is not None:
                values = [_text(value) for value in values]
            summaries.append((name, dtype, array.shape, values))
        return summaries

    def _run(self) -> None:
        while True:
            self._wake.wait(WRITE_EVERY_S)
            closing = self._deadline is not None
            self._wake.clear()
            for lines in self._batches():
                if not self._write(lines):
                    return
            if closing:
                return

    def _batches(self) -> Iterator[list[bytes]]:
        """What waits now as lines, up to a write's worth at a time, and what has been lost meanwhile."""
        while self._waiting or self._dropped + self._lost > self._reported:
            lines: list[bytes] = []
            size = 0
            while self._waiting and size < MAX_WRITE_BYTES:
                line = self._line(self._waiting.popleft())
                lines.append(line)
                size += len(line)
                if len(lines) % _LINES_A_TURN == 0:
                    time.sleep(0)  # let go of the interpreter: the event loop must not wait for the log
            gone = self._dropped + self._lost
            if gone > self._reported:
                dropped = {"event": "audit_dropped", "count": gone - self._reported}
                lines.append(orjson.dumps(dropped, option=_OPTIONS))
                self._reported = gone
            yield lines

    def _line(self, waiting: Waiting) -> bytes:
        try:
            document = _document(waiting)
            try:
                return orjson.dumps(document, option=_OPTIONS)
            except orjson.JSONEncodeError:  # half a surrogate pair in some text
                return orjson.dumps(_printable(document), option=_OPTIONS)
        except Exception:  # noqa: BLE001  # one odd entry must not end the log
            self._lost += 1
            return b""

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


def _document(waiting: Waiting) -> dict[str, Any]:
    entry, served_by, inputs, outputs = waiting
    shape = inputs[0][2] if inputs else (0,)
    return {
        "event": "inference",
        "time": _moment(entry.time),
        "request_id": entry.request_id,
        "trace_id": _trace_id(entry.traceparent),
        "client": entry.client,
        "model": entry.model,
        "version": entry.version,
        "protocol": entry.protocol,
        "method": entry.method,
        "status": entry.status,
        "reason": entry.reason,
        "duration_s": entry.duration_s,
        "rows": shape[0] if shape else 1,
        "served_by": served_by,
        "inputs": None if inputs is None else {summary[0]: _tensor(summary) for summary in inputs},
        "outputs": None if outputs is None else {summary[0]: _tensor(summary) for summary in outputs},
    }


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


def _tensor(summary: Summary) -> dict[str, Any]:
    _, dtype, shape, values = summary
    return {
        "datatype": DATATYPES.get(dtype) or str(dtype),
        "shape": shape,
        "values": MASKED if values is None else values if isinstance(values, list) else _json_values(values),
    }


def _json_values(values: Array) -> Array | list[Any]:
    """Values as orjson writes them best; NaN and infinity, which JSON lacks, as text."""
    kind = values.dtype.kind
    if kind in "biu":
        return values
    if kind == "f":
        if all(map(isfinite, values.tolist())):
            return values  # with the shortest digits of its own width
        return [value if isfinite(value) else _not_finite(float(value)) for value in values]
    if values.dtype in DATATYPES:  # BF16
        return _json_values(values.astype(np.float32))
    return [_text(value) for value in values]


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
