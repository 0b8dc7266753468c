"""ModelInferRequest and ModelInferResponse as the core's values."""

from __future__ import annotations

from collections.abc import Iterator
from math import prod
from typing import Any

import numpy as np
from google.protobuf.message import DecodeError

from modelway_runtime.serving.errors import InferenceError, invalid
from modelway_runtime.serving.grpc.messages import Message, ModelInferRequest, ModelInferResponse
from modelway_runtime.serving.rest_codec import scheduling
from modelway_runtime.serving.tensors import (
    DTYPES,
    MAX_TEXTS,
    check_texts,
    checked_shape,
    datatype_of,
    dtype_of,
    from_bytes,
    object_array,
    shown,
    to_bytes,
)
from modelway_runtime.serving.values import Array, Arrays, InferenceRequest, InferenceResponse
from modelway_runtime.serving.wire import BYTES, GROUP, Broken, fields

# The field of InferTensorContents for each datatype, and the datatype that its elements have there; FP16
# and BF16 have no field.
_FIELDS = {
    "BOOL": ("bool_contents", "BOOL"),
    "INT8": ("int_contents", "INT32"),
    "INT16": ("int_contents", "INT32"),
    "INT32": ("int_contents", "INT32"),
    "INT64": ("int64_contents", "INT64"),
    "UINT8": ("uint_contents", "UINT32"),
    "UINT16": ("uint_contents", "UINT32"),
    "UINT32": ("uint_contents", "UINT32"),
    "UINT64": ("uint64_contents", "UINT64"),
    "FP32": ("fp32_contents", "FP32"),
    "FP64": ("fp64_contents", "FP64"),
    "BYTES": ("bytes_contents", "BYTES"),
}
_COUNT_FROM = 64 * 1024  # bytes of a request that is cheap to parse whatever it holds
_MAX_FIELDS = 16384
_MAX_NUMBERS = 2**20  # a whole number takes a byte of a message and 8 of a tensor, some 24 on the way there
_MESSAGE, _TENSOR, _CONTENTS = range(3)  # levels of a ModelInferRequest
_INSIDE = {_MESSAGE: (5, 6), _TENSOR: (5,)}  # inputs and outputs; contents
_SHORT = (1, 2, 3)  # model_name, model_version and id; name, datatype and shape of a tensor
_MAX_SHORT = 64 * 1024
_WHOLE_NUMBERS = (2, 3, 4, 5)  # of InferTensorContents.int_contents to .uint64_contents
_TEXTS = 8  # of InferTensorContents.bytes_contents
_MAX_ID = 1024


def parse_request(data: bytes) -> Message:
    """The message in the bytes. Raises InferenceError (400) when there is none, or one of crumbs."""
    if len(data) > _COUNT_FROM:
        _check_fields(memoryview(data))
    try:
        return ModelInferRequest.FromString(data)
    except DecodeError:
        raise _no_message() from None


def decode_request(message: Message) -> InferenceRequest:
    """What the message asks for. Raises InferenceError (400) for everything that is wrong with it."""
    request_id = message.id
    if len(request_id) > _MAX_ID:
        raise invalid(f"`id` is a string of at most {_MAX_ID} characters")
    parameters = message.parameters
    priority, timeout_s = scheduling(_values(parameters)) if parameters else (0, None)
    return InferenceRequest(
        model=message.model_name,
        version=message.model_version or None,
        inputs=_inputs(message),
        outputs=_outputs(message) if message.outputs else (),
        id=request_id,
        priority=priority,
        timeout_s=timeout_s,
    )


def encode_response(response: InferenceResponse, request_id: str) -> Message:
    """The answer, its tensors as bytes. Raises KeyError for a dtype that the protocol does not know."""
    message = ModelInferResponse(model_name=response.model, model_version=response.version, id=request_id)
    for name, array in response.outputs.items():
        message.outputs.add(name=name, datatype=datatype_of(array), shape=array.shape)
        message.raw_output_contents.append(to_bytes(array))
    if response.served_by:
        message.parameters["served_by"].string_param = response.served_by
    return message


def _inputs(message: Message) -> Arrays:
    tensors, raw = message.inputs, message.raw_input_contents
    if not tensors:
        raise invalid("`inputs` is empty")
    if raw and len(raw) != len(tensors):
        raise invalid(f"{len(raw)} raw_input_contents for {len(tensors)} inputs")
    arrays: Arrays = {}
    for index, tensor in enumerate(tensors):
        name = tensor.name
        if not name:
            raise invalid("`inputs` holds a tensor without a name")
        if name in arrays:
            raise invalid(f"`inputs` names {shown(name)} twice")
        if "shared_memory_region" in tensor.parameters:
            raise invalid(f"input {shown(name)}: shared memory is not supported; send the tensor itself")
        datatype = tensor.datatype
        dtype = dtype_of(datatype)
        shape = checked_shape(list(tensor.shape), name)
        if raw and tensor.HasField("contents"):
            raise invalid(f"input {shown(name)}: `contents` and raw_input_contents exclude each other")
        try:
            if raw:
                arrays[name] = from_bytes(memoryview(raw[index]), datatype, shape, name)
            else:
                arrays[name] = _typed(tensor.contents, datatype, dtype, prod(shape), name).reshape(shape)
        except ValueError:  # no elements, and sizes that numpy cannot multiply
            raise invalid(f"input {shown(name)}: the shape {list(shape)} is too large") from None
    return arrays


def _typed(contents: Message, datatype: str, dtype: np.dtype[Any], count: int, name: str) -> Array:
    """The elements of a tensor that stand one by one in the message, in one dimension."""
    if datatype not in _FIELDS:
        raise invalid(f"input {shown(name)}: {datatype} is sent in raw_input_contents only")
    field, carried = _FIELDS[datatype]
    wrong = [filled.name for filled, _ in contents.ListFields() if filled.name != field]
    if wrong:
        raise invalid(f"input {shown(name)}: {datatype} belongs into {field}, not into {wrong[0]}")
    elements = getattr(contents, field)
    if len(elements) != count:
        raise invalid(f"input {shown(name)}: {len(elements)} elements where its shape has {count}")
    if datatype == "BYTES":
        check_texts(count, name)
        return object_array(list(elements))
    # One after the other: before protobuf 7 an array of all at once goes through a list of Python objects.
    array = np.fromiter(elements, DTYPES[carried], count)
    if carried != datatype:
        limits = np.iinfo(dtype)
        if array.size and not limits.min <= array.min() <= array.max() <= limits.max:
            raise invalid(f"input {shown(name)}: an element of {field} does not fit {datatype}")
    return array.astype(dtype, copy=False)


def _outputs(message: Message) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for output in message.outputs:
        name = output.name
        if not name:
            raise invalid("`outputs` holds an output without a name")
        if name in names:
            raise invalid(f"`outputs` names {shown(name)} twice")
        for parameter, value in _values(output.parameters).items():
            if value and parameter in ("classification", "shared_memory_region"):
                raise invalid(f"output {shown(name)}: the parameter `{parameter}` is not supported")
        names[name] = None
    return tuple(names)


def _values(parameters: Message) -> dict[str, Any]:
    """A map of InferParameters as plain values; one without a value is None."""
    values: dict[str, Any] = {}
    for name, parameter in parameters.items():
        choice = parameter.WhichOneof("parameter_choice")
        values[name] = getattr(parameter, choice) if choice else None
    return values


def _no_message() -> InferenceError:
    return invalid("the message is not a ModelInferRequest")


def _check_fields(data: memoryview) -> None:
    """Refuse a message of crumbs before it is parsed. Raises InferenceError (400).

    An empty tensor takes two bytes of a message but a hundred of memory: 16 MiB of them become 800 MiB
    and hold up the event loop for most of a second. An empty text and a small number are crumbs as well.
    """
    count = texts = numbers = 0
    spans = [(0, len(data), _MESSAGE)]
    while spans:
        at, end, level = spans.pop()
        for field, kind, start, after in _fields(data, at, end):
            if level != _CONTENTS:
                count += 1
            elif kind == BYTES and field in _WHOLE_NUMBERS:
                numbers += int(np.count_nonzero(np.frombuffer(data[start:after], np.uint8) < 128))
            elif kind != BYTES or field == _TEXTS:
                texts += 1
            if count > _MAX_FIELDS or texts > MAX_TEXTS or numbers > _MAX_NUMBERS:
                raise invalid(
                    f"the message has more than {_MAX_FIELDS} fields, {MAX_TEXTS} elements one by one, or "
                    f"{_MAX_NUMBERS} whole numbers in `contents`; send raw_input_contents"
                )
            if kind != BYTES:
                continue
            if level != _CONTENTS and field in _SHORT and after - start > _MAX_SHORT:
                raise invalid(
                    f"a name, a datatype or a shape of the message has more than {_MAX_SHORT} bytes"
                )
            if field in _INSIDE.get(level, ()):
                spans.append((start, after, level + 1))


def _fields(data: memoryview, at: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """As ``wire.fields``. Raises InferenceError (400), also for groups, which this message has none of."""
    try:
        for field in fields(data, at, end):
            if field[1] == GROUP:
                raise _no_message()
            yield field
    except Broken:
        raise _no_message() from None
