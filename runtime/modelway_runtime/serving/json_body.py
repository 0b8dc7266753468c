"""The JSON of a request or an answer as Python values, within a small multiple of its size.

A parser makes objects of everything: an empty list takes two bytes of a body and 64 of memory. A short
body is parsed at once. Of a longer one only what describes the tensors is, each part of bounded length;
the elements of a tensor stay text (``Raw``), which ``json_elements.py`` reads piece by piece.
"""

from __future__ import annotations

from typing import Any, TypeAlias

import msgspec
import orjson
from msgspec import Raw

from modelway_runtime.serving.errors import invalid

Json: TypeAlias = dict[str, Any]

WHOLE_BYTES = 128 * 1024
"""A body of so many bytes is parsed at once: 8 MiB for a moment, whatever is in it."""
MAX_PART_BYTES = 64 * 1024
"""Of each part of a longer body that is not a tensor's elements."""
MAX_TENSORS = 1024


class _Tensor(msgspec.Struct, gc=False):
    name: str
    datatype: str
    shape: Raw
    parameters: Raw = Raw()
    data: Raw = Raw()


class _Request(msgspec.Struct, gc=False):
    inputs: list[_Tensor]
    outputs: Raw = Raw()
    parameters: Raw = Raw()
    id: Raw = Raw()


class _Response(msgspec.Struct, gc=False):
    outputs: list[_Tensor]
    model_version: Raw = Raw()


_REQUEST = msgspec.json.Decoder(_Request)
_RESPONSE = msgspec.json.Decoder(_Response)


def parse_request(text: bytes) -> Json:
    """The object of a request. Raises InferenceError (400)."""
    if len(text) <= WHOLE_BYTES:
        return _whole(text)
    request = _described(_REQUEST, text)
    head = _parts(request, "outputs", "parameters", "id")
    head["inputs"] = _tensors(request.inputs)
    return head


def parse_response(text: bytes) -> Json:
    """The object of an answer. Raises InferenceError (400)."""
    if len(text) <= WHOLE_BYTES:
        return _whole(text)
    response = _described(_RESPONSE, text)
    head = _parts(response, "model_version")
    head["outputs"] = _tensors(response.outputs)
    return head


def parsed(text: bytes | Raw) -> Any:
    """All of a short text. Raises InferenceError (400)."""
    try:
        return orjson.loads(text if isinstance(text, bytes) else memoryview(text))
    except orjson.JSONDecodeError as error:
        raise invalid(f"the body is not JSON: {error}") from None


def _whole(text: bytes) -> Json:
    head = parsed(text)
    if not isinstance(head, dict):
        raise invalid("the body is not a JSON object")
    return head


def _described(decoder: Any, text: bytes) -> Any:
    try:
        return decoder.decode(text)
    except msgspec.ValidationError as error:
        raise invalid(f"the body is not as the protocol says: {error}") from None
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise invalid(f"the body is not JSON: {error}") from None


def _tensors(tensors: list[_Tensor]) -> list[Json]:
    if len(tensors) > MAX_TENSORS:
        raise invalid(f"the body has {len(tensors)} tensors, more than {MAX_TENSORS}")
    described: list[Json] = []
    for tensor in tensors:
        head = {"name": tensor.name, "datatype": tensor.datatype, **_parts(tensor, "shape", "parameters")}
        if bytes(memoryview(tensor.data)[:1]) == b"[":
            head["data"] = tensor.data
        described.append(head)
    return described


def _parts(value: msgspec.Struct, *names: str) -> Json:
    """Short parts, parsed; one that is missing is left out."""
    parts: Json = {}
    for name in names:
        part: Raw = getattr(value, name)
        length = len(memoryview(part))
        if length > MAX_PART_BYTES:
            raise invalid(f"`{name}` is longer than {MAX_PART_BYTES} bytes")
        if length:
            parts[name] = parsed(part)
    return parts
