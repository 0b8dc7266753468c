"""Bodies of the protocol, written and read without the server's own codec, and a bare line to the server."""

from __future__ import annotations

import json
import socket
import struct
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from tests.support.serving import Answer, Json, Server

Array = NDArray[Any]
LENGTH = "Inference-Header-Content-Length"
DTYPES: dict[str, Any] = {
    "BOOL": np.bool_,
    "UINT8": np.uint8,
    "UINT16": np.uint16,
    "UINT32": np.uint32,
    "UINT64": np.uint64,
    "INT8": np.int8,
    "INT16": np.int16,
    "INT32": np.int32,
    "INT64": np.int64,
    "FP16": np.float16,
    "FP32": np.float32,
    "FP64": np.float64,
    "BF16": ml_dtypes.bfloat16,
    "BYTES": object,
}


def texts(*elements: bytes) -> Array:
    """A one-dimensional BYTES tensor."""
    array = np.empty(len(elements), object)
    array[:] = elements
    return array


def raw(array: Array) -> bytes:
    """The bytes of a tensor by the binary extension."""
    if array.dtype == object:
        return b"".join(struct.pack("<I", len(element)) + element for element in array.ravel())
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def datatype_of(array: Array) -> str:
    return next(name for name, dtype in DTYPES.items() if np.dtype(dtype) == array.dtype)


def as_json(name: str, array: Array) -> Json:
    """A tensor with its data in the JSON, nested as the shape is."""
    data = [e.decode() for e in array.ravel()] if array.dtype == object else array.tolist()
    return _described(name, array, data=data if isinstance(data, list) else [data])


def json_request(inputs: Mapping[str, Array], **more: Any) -> Json:
    return {"inputs": [as_json(name, array) for name, array in inputs.items()], **more}


def binary_request(
    inputs: Mapping[str, Array], *, in_json: Mapping[str, Array] | None = None, pad: int = 0, **more: Any
) -> tuple[bytes, dict[str, str]]:
    """A body whose tensors follow the JSON, but for those of ``in_json``; and its headers."""
    tensors = [as_json(name, array) for name, array in (in_json or {}).items()]
    tensors += [
        _described(name, array, parameters={"binary_data_size": len(raw(array))})
        for name, array in inputs.items()
    ]
    head = json.dumps({"inputs": tensors, **more}).encode() + b" " * pad
    return head + b"".join(map(raw, inputs.values())), {LENGTH: str(len(head))}


def _described(name: str, array: Array, **more: Any) -> Json:
    return {"name": name, "datatype": datatype_of(array), "shape": list(array.shape), **more}


def outputs_of(answer: Answer) -> dict[str, Array]:
    """The outputs of an answer of status 200, wherever their data stands."""
    assert answer.status == 200, answer.body[:500]
    at = int(answer.headers.get(LENGTH.lower(), len(answer.body)))
    binary = LENGTH.lower() in answer.headers
    assert answer.headers["content-type"] == ("application/octet-stream" if binary else "application/json")
    outputs: dict[str, Array] = {}
    for output in json.loads(answer.body[:at])["outputs"]:
        size = output.get("parameters", {}).get("binary_data_size")
        if size is None:
            outputs[output["name"]] = _from_json(output)
        else:
            outputs[output["name"]] = _from_raw(output, answer.body[at : at + size])
            at += size
    assert at == len(answer.body), "bytes follow the last output"
    return outputs


def _from_json(output: Json) -> Array:
    if output["datatype"] == "BYTES":
        return texts(*(text.encode() for text in output["data"])).reshape(output["shape"])
    return np.array(output["data"], DTYPES[output["datatype"]]).reshape(output["shape"])


def _from_raw(output: Json, data: bytes) -> Array:
    if output["datatype"] != "BYTES":
        return np.frombuffer(data, DTYPES[output["datatype"]]).reshape(output["shape"])
    elements, at = [], 0
    while at < len(data):
        (length,) = struct.unpack_from("<I", data, at)
        elements.append(data[at + 4 : at + 4 + length])
        at += 4 + length
    return texts(*elements).reshape(output["shape"])


def same(one: Array, other: Array) -> None:
    """Equal to the last bit, NaN's too."""
    assert one.shape == other.shape
    assert one.dtype == other.dtype
    assert raw(one) == raw(other)


def error_of(answer: Answer, status: int) -> str:
    """The message of an error, which has the protocol's form and nothing else in it."""
    assert answer.status == status, (answer.status, answer.body[:500])
    assert answer.headers["content-type"] == "application/json"
    said = answer.json
    assert list(said) == ["error"]
    assert isinstance(said["error"], str)
    assert said["error"]
    assert "Traceback" not in said["error"]
    return str(said["error"])


class Line:
    """A TCP connection to a server, for what no client does."""

    def __init__(self, server: Server) -> None:
        self._socket = socket.create_connection(("127.0.0.1", server.http_port), timeout=10)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._received = b""

    def __enter__(self) -> Line:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def half_close(self) -> None:
        self._socket.shutdown(socket.SHUT_WR)

    def reset(self) -> None:
        """Close without a farewell, as a client that has crashed."""
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._socket.close()

    def answer(self, *, head: bool = False) -> Answer:
        """The next answer; 1xx answers count. ``head``: to a HEAD, which has no body."""
        while b"\r\n\r\n" not in self._received:
            self._more()
        text, _, self._received = self._received.partition(b"\r\n\r\n")
        status, *lines = text.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        size = 0 if head else int(headers.get("content-length", 0))
        while len(self._received) < size:
            self._more()
        body, self._received = self._received[:size], self._received[size:]
        return Answer(int(status.split(" ")[1]), headers, body)

    def closed(self) -> bool:
        """Whether the server ends the connection; waits for that. What it still says is dropped."""
        try:
            while self._socket.recv(65536):
                pass
        except TimeoutError:
            return False
        except ConnectionError:
            return True
        return True

    def silent_for(self, seconds: float) -> bool:
        """Whether nothing comes for so long, not even the end."""
        self._socket.settimeout(seconds)
        try:
            self._received += self._socket.recv(65536)
        except TimeoutError:
            return True
        finally:
            self._socket.settimeout(10)
        return False

    def _more(self) -> None:
        data = self._socket.recv(65536)
        if not data:
            raise AssertionError(f"the server closed the connection after {self._received!r}")
        self._received += data


def http_request(
    method: str, path: str, body: bytes = b"", headers: Mapping[str, str] | None = None, *, sized: bool = True
) -> bytes:
    """The text of a request. ``sized``: with its content-length."""
    lines = [f"{method} {path} HTTP/1.1", "host: test"]
    if sized and (body or method == "POST"):
        lines.append(f"content-length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1") + body
