"""The Open Inference Protocol's bodies over HTTP: JSON, and JSON followed by tensors (binary extension)."""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import msgspec
import numpy as np
import orjson

from modelway_runtime.serving.errors import InferenceError, invalid
from modelway_runtime.serving.json_body import WHOLE_BYTES, Json, parse_request, parse_response
from modelway_runtime.serving.json_elements import from_json
from modelway_runtime.serving.tensors import (
    checked_shape,
    datatype_of,
    dtype_of,
    from_bytes,
    reshaped,
    shown,
    to_bytes,
)
from modelway_runtime.serving.values import Array, Arrays, InferenceRequest, InferenceResponse

HEADER_LENGTH = "inference-header-content-length"
"""Header that gives the length of the JSON in front of the tensors, both ways."""
_NO_JSON = frozenset({"FP16", "BF16"})
_CHECKED = frozenset({"BOOL", "BYTES"})  # not every sequence of bytes is one
_HEADS, _HEAD_BYTES = 1024, 4096
_DUMP = orjson.OPT_SERIALIZE_NUMPY


class Wanted(msgspec.Struct, frozen=True):
    """How the answer is to be written: which outputs, and which of them as bytes."""

    binary: dict[str, bool]
    binary_default: bool


class Decoded(NamedTuple):
    request: InferenceRequest
    wanted: Wanted


class Head(msgspec.Struct, frozen=True):
    """The JSON of a request, understood; of binary tensors only where they lie behind it.

    ``places``: name, datatype, dtype, shape, first and last byte of each binary tensor.
    """

    arrays: Arrays
    places: tuple[tuple[str, str, np.dtype[Any], tuple[int, ...], int, int], ...]
    tail_bytes: int
    outputs: tuple[str, ...]
    wanted: Wanted
    id: str
    priority: int
    timeout_s: float | None


class Decoder:
    """Decodes requests, and remembers heads: callers send the same one again and again.

    Only heads without an id and without data are kept, a bounded number of short ones.
    """

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def decode(self, body: bytes, header_length: int | None, model: str, version: str | None) -> Decoded:
        """A request from its body. Raises InferenceError (400) for everything that is wrong with it."""
        if header_length is None:
            head, at = _head(parse_request(body)), len(body)
        else:
            if not 0 < header_length <= len(body):
                raise invalid(f"{HEADER_LENGTH} is {header_length}, but the body has {len(body)} bytes")
            text, at = body[:header_length], header_length
            known = self._known.get(text)
            head = known if known is not None else self._learnt(text)
        if len(body) - at != head.tail_bytes:
            raise invalid(f"{len(body) - at} bytes follow the JSON, which announces {head.tail_bytes}")
        inputs = head.arrays
        if head.places:
            view = memoryview(body)
            inputs = dict(inputs)
            for name, datatype, dtype, shape, first, last in head.places:
                if datatype in _CHECKED:
                    inputs[name] = from_bytes(view[at + first : at + last], datatype, shape, name)
                else:
                    inputs[name] = np.frombuffer(body, dtype, prod(shape), at + first).reshape(shape)
        request = InferenceRequest(
            model, inputs, version, head.outputs, head.id, head.priority, head.timeout_s
        )
        return Decoded(request, head.wanted)

    def _learnt(self, text: bytes) -> Head:
        head = _head(parse_request(text))
        if not head.id and not head.arrays and len(text) <= _HEAD_BYTES:
            if len(self._known) >= _HEADS:
                self._known.clear()
            self._known[text] = head
        return head


def _head(head: Json) -> Head:
    """Everything of a request but the binary tensors' contents. Raises InferenceError (400)."""
    arrays, places, size = _declared(head.get("inputs"), "inputs")
    if not arrays and not places:
        raise invalid("`inputs` is empty")
    parameters = _mapping(head.get("parameters"), "parameters")
    outputs, wanted = _requested(head.get("outputs"), parameters)
    request_id = head.get("id", "")
    if not isinstance(request_id, str) or len(request_id) > 1024:
        raise invalid("`id` is a string of at most 1024 characters")
    priority, timeout_s = scheduling(parameters) if parameters else (0, None)
    return Head(arrays, places, size, outputs, wanted, request_id, priority, timeout_s)


def scheduling(parameters: Json) -> tuple[int, float | None]:
    """Priority and timeout (seconds) of the request's parameters, whose timeout is in microseconds."""
    priority = parameters.get("priority", 0)
    if type(priority) is not int or priority < 0:
        raise invalid("the parameter `priority` is a whole number from 0")
    timeout = parameters.get("timeout")
    if timeout is not None and (type(timeout) is not int or timeout < 0):
        raise invalid("the parameter `timeout` is a whole number of microseconds")
    for name in ("sequence_id", "sequence_start", "sequence_end"):
        if parameters.get(name):
            raise invalid(f"the parameter `{name}` asks for a stateful model, and this server has none")
    return priority, timeout / 1e6 if timeout else None


def encode_response(response: InferenceResponse, wanted: Wanted, request_id: str) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON if tensors follow it.

    Raises InferenceError (400) where an output has no form in JSON and bytes were not asked for.
    """
    outputs: list[Json] = []
    tail: list[bytes] = []
    for name, array in response.outputs.items():
        datatype = datatype_of(array)
        output: Json = {"name": name, "datatype": datatype, "shape": array.shape}
        if wanted.binary.get(name, wanted.binary_default):
            data = to_bytes(array)
            output["parameters"] = {"binary_data_size": len(data)}
            tail.append(data)
        else:
            output["data"] = _json_data(name, datatype, array)
        outputs.append(output)
    head: Json = {"model_name": response.model, "model_version": response.version}
    if request_id:
        head["id"] = request_id
    if response.served_by:
        head["parameters"] = {"served_by": response.served_by}
    head["outputs"] = outputs
    text = orjson.dumps(head, option=_DUMP)
    return (b"".join((text, *tail)), len(text)) if tail else (text, None)


def encode_request(request: InferenceRequest) -> tuple[bytes, int]:
    """The body of a request with binary tensors both ways, and the length of its JSON."""
    inputs: list[Json] = []
    tail: list[bytes] = []
    for name, array in request.inputs.items():
        data = to_bytes(array)
        parameters = {"binary_data_size": len(data)}
        inputs.append(
            {"name": name, "datatype": datatype_of(array), "shape": array.shape, "parameters": parameters}
        )
        tail.append(data)
    options: Json = {"binary_data_output": True}
    if request.priority:
        options["priority"] = request.priority
    head: Json = {"inputs": inputs, "parameters": options}
    if request.id:
        head["id"] = request.id
    if request.outputs:
        head["outputs"] = [{"name": name} for name in request.outputs]
    text = orjson.dumps(head)
    return b"".join((text, *tail)), len(text)


def decode_response(body: bytes, header_length: int | None) -> tuple[str, Arrays]:
    """Version and outputs of another server's answer. Raises InferenceError (502) where it is none."""
    at = len(body) if header_length is None else header_length
    try:
        head = parse_response(body[:at])
        outputs, places, size = _declared(head.get("outputs"), "outputs")
        if size != len(body) - at:
            raise invalid("it has another length than its JSON announces")
        for name, datatype, _, shape, first, last in places:
            outputs[name] = from_bytes(memoryview(body)[at + first : at + last], datatype, shape, name)
    except InferenceError as error:
        raise InferenceError(502, f"the standby model's answer: {error.message}") from None
    return str(head.get("model_version", "")), outputs


def error_message(body: bytes) -> str:
    """The message in another server's error, short enough to be passed on."""
    if len(body) > WHOLE_BYTES:
        return "an error with a long message"
    try:
        message = orjson.loads(body)["error"]
    except (orjson.JSONDecodeError, KeyError, TypeError):
        return "an error without a message"
    return str(message)[:500]


def error_body(message: str) -> bytes:
    return orjson.dumps({"error": message})


def _declared(
    declared: object, what: str
) -> tuple[Arrays, tuple[tuple[str, str, np.dtype[Any], tuple[int, ...], int, int], ...], int]:
    """Tensors whose data stands in the JSON, where the others lie behind it, and how long that is."""
    if not isinstance(declared, list):
        raise invalid(f"`{what}` is a list of tensors")
    arrays: Arrays = {}
    places: dict[str, tuple[str, str, np.dtype[Any], tuple[int, ...], int, int]] = {}
    at = 0
    for tensor in declared:
        if not isinstance(tensor, dict):
            raise invalid(f"`{what}` is a list of tensors, each an object")
        name = tensor.get("name")
        if not isinstance(name, str) or not name:
            raise invalid(f"`{what}` holds a tensor without a name")
        if name in arrays or name in places:
            raise invalid(f"`{what}` names {shown(name)} twice")
        datatype = tensor.get("datatype")
        dtype = dtype_of(datatype)
        assert isinstance(datatype, str)  # dtype_of has found it
        shape = checked_shape(tensor.get("shape"), name)
        size = _mapping(tensor.get("parameters"), "parameters").get("binary_data_size")
        if size is None:
            arrays[name] = _from_json(tensor.get("data"), datatype, shape, name)
            continue
        if type(size) is not int or not 0 <= size < 2**63:
            raise invalid(f"input {shown(name)}: binary_data_size is a whole number")
        if datatype != "BYTES" and prod(shape) * dtype.itemsize != size:
            raise invalid(
                f"input {shown(name)}: {size} bytes, but {list(shape)} of {datatype} "
                f"is {prod(shape) * dtype.itemsize}"
            )
        reshaped(np.empty(0), (*shape, 0), name)  # numpy can count it
        places[name] = (name, datatype, dtype, shape, at, at + size)
        at += size
    return arrays, tuple(places.values()), at


def _requested(declared: object, parameters: Json) -> tuple[tuple[str, ...], Wanted]:
    default = parameters.get("binary_data_output", False)
    if type(default) is not bool:
        raise invalid("the parameter `binary_data_output` is true or false")
    if not declared:
        return (), _ALL_BINARY if default else _ALL_JSON
    if not isinstance(declared, list):
        raise invalid("`outputs` is a list")
    binary: dict[str, bool] = {}
    for output in declared:
        name = output.get("name") if isinstance(output, dict) else None
        if not isinstance(name, str) or not name:
            raise invalid("`outputs` holds an output without a name")
        if name in binary:
            raise invalid(f"`outputs` names {shown(name)} twice")
        options = _mapping(output.get("parameters"), "parameters")
        if options.get("classification"):
            raise invalid("the parameter `classification` is not supported")
        asked = options.get("binary_data", default)
        if type(asked) is not bool:
            raise invalid(f"output {shown(name)}: the parameter `binary_data` is true or false")
        binary[name] = asked
    return tuple(binary), Wanted(binary, default)


def _mapping(value: object, what: str) -> Json:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise invalid(f"`{what}` is an object")
    return value


def _from_json(data: object, datatype: str, shape: tuple[int, ...], name: str) -> Array:
    if datatype in _NO_JSON:
        raise invalid(f"input {shown(name)}: {datatype} has no form in JSON; send it as bytes")
    return reshaped(from_json(data, datatype, prod(shape), name), shape, name)


def _json_data(name: str, datatype: str, array: Array) -> Any:
    if datatype in _NO_JSON:
        raise invalid(f"output {shown(name)}: {datatype} has no form in JSON; ask for binary_data")
    if datatype == "BYTES":
        try:
            return [element.decode() for element in array.ravel()]
        except UnicodeDecodeError:
            raise invalid(f"output {shown(name)} is not text; ask for binary_data") from None
    return array.ravel()


_ALL_JSON = Wanted({}, binary_default=False)
_ALL_BINARY = Wanted({}, binary_default=True)
