"""Requests and answers as messages: every datatype, and everything that can be wrong with a request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from modelway_runtime.serving.errors import InferenceError
from modelway_runtime.serving.grpc.codec import decode_request, encode_response, parse_request
from modelway_runtime.serving.grpc.messages import ModelInferRequest, ModelInferResponse
from modelway_runtime.serving.tensors import DTYPES, from_bytes, object_array, to_bytes
from modelway_runtime.serving.values import Array, InferenceRequest, InferenceResponse
from tests.runtime.grpc.grpc_helpers import request_of

FIELDS = {
    "BOOL": "bool_contents",
    "UINT8": "uint_contents",
    "UINT16": "uint_contents",
    "UINT32": "uint_contents",
    "UINT64": "uint64_contents",
    "INT8": "int_contents",
    "INT16": "int_contents",
    "INT32": "int_contents",
    "INT64": "int64_contents",
    "FP32": "fp32_contents",
    "FP64": "fp64_contents",
    "BYTES": "bytes_contents",
}
SHAPES = [(6,), (2, 3), (3, 2, 1)]


def sample(datatype: str, shape: tuple[int, ...]) -> Array:
    """Six elements, with the extremes of the datatype."""
    dtype = DTYPES[datatype]
    if datatype == "BYTES":
        return object_array([b"", b"a", b"\x00\xff", "ü".encode(), b"x" * 300, b"\x01\x00\x00\x00"]).reshape(
            shape
        )
    if datatype == "BOOL":
        return np.array([True, False, False, True, True, False]).reshape(shape)
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.array([limits.min, limits.max, 0, 1, 2, 3], dtype).reshape(shape)
    return np.array([0.0, -1.5, 3.0, np.inf, -np.inf, np.nan]).astype(dtype).reshape(shape)


def same(one: Array, other: Array) -> bool:
    return one.dtype == other.dtype and one.shape == other.shape and to_bytes(one) == to_bytes(other)


def decoded(message: Any) -> InferenceRequest:
    return decode_request(parse_request(message.SerializeToString()))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("datatype", DTYPES)
def test_a_tensor_of_bytes_round_trips(datatype: str, shape: tuple[int, ...]) -> None:
    array = sample(datatype, shape)
    request = decoded(request_of("m", {"x": array}))
    assert same(request.inputs["x"], array)
    response = InferenceResponse(model="m", version="1", outputs=request.inputs)
    message = ModelInferResponse.FromString(encode_response(response, "").SerializeToString())
    output = message.outputs[0]
    assert (output.name, output.datatype, tuple(output.shape)) == ("x", datatype, shape)
    assert not output.HasField("contents")
    assert same(from_bytes(memoryview(message.raw_output_contents[0]), datatype, shape, "x"), array)


@pytest.mark.parametrize("datatype", FIELDS)
def test_a_tensor_of_elements_is_read(datatype: str) -> None:
    array = sample(datatype, (2, 3))
    message = ModelInferRequest(model_name="m")
    tensor = message.inputs.add(name="x", datatype=datatype, shape=(2, 3))
    getattr(tensor.contents, FIELDS[datatype]).extend(array.ravel().tolist())
    assert same(decoded(message).inputs["x"], array)


@pytest.mark.parametrize("datatype", DTYPES)
def test_a_tensor_may_have_no_elements(datatype: str) -> None:
    message = ModelInferRequest(model_name="m")
    message.inputs.add(name="x", datatype=datatype, shape=(0, 3))
    message.raw_input_contents.append(b"")
    assert same(decoded(message).inputs["x"], np.empty((0, 3), DTYPES[datatype]))
    if datatype in FIELDS:
        del message.raw_input_contents[:]
        assert same(decoded(message).inputs["x"], np.empty((0, 3), DTYPES[datatype]))


def test_a_scalar_has_no_dimensions() -> None:
    assert decoded(request_of("m", {"x": np.array(5, np.int32)})).inputs["x"] == np.array(5, np.int32)


def test_many_tensors_keep_their_order_and_their_bytes() -> None:
    inputs = {f"x{i}": np.full((i,), i, np.int64) for i in range(5)}
    got = decoded(request_of("m", inputs)).inputs
    assert list(got) == list(inputs)
    assert all(same(got[name], inputs[name]) for name in inputs)


def test_everything_else_of_a_request() -> None:
    message = request_of("m", {"x": np.zeros(1)}, model_version="3", id="r-7")
    message.outputs.add(name="b")
    message.outputs.add(name="a").parameters["classification"].int64_param = 0
    message.parameters["priority"].uint64_param = 2
    message.parameters["timeout"].int64_param = 1_500_000
    message.parameters["sequence_id"].int64_param = 0
    message.parameters["nobody knows"].double_param = 1.5
    message.parameters["empty"].SetInParent()
    request = decoded(message)
    assert (request.model, request.version, request.id) == ("m", "3", "r-7")
    assert (request.outputs, request.priority, request.timeout_s) == (("b", "a"), 2, 1.5)
    plain = decoded(request_of("m", {"x": np.zeros(1)}))
    assert (plain.version, plain.outputs, plain.priority, plain.timeout_s, plain.id) == (
        None,
        (),
        0,
        None,
        "",
    )


def test_everything_of_an_answer() -> None:
    response = InferenceResponse(model="m", version="1", outputs={}, served_by="lite")
    message = encode_response(response, "r-7")
    assert (message.model_name, message.model_version, message.id) == ("m", "1", "r-7")
    assert message.parameters["served_by"].string_param == "lite"
    assert not encode_response(InferenceResponse(model="m", version="1", outputs={}), "").parameters


def _edit(change: Callable[[Any], object]) -> Callable[[], bytes]:
    def made() -> bytes:
        message = request_of("m", {"x": np.zeros((2, 2), np.float32), "y": np.zeros(1, np.int8)})
        change(message)
        return bytes(message.SerializeToString())

    return made


def _typed(datatype: str, shape: tuple[int, ...], **contents: list[Any]) -> Callable[[], bytes]:
    def made() -> bytes:
        message = ModelInferRequest(model_name="m")
        tensor = message.inputs.add(name="x", datatype=datatype, shape=shape)
        for field, elements in contents.items():
            getattr(tensor.contents, field).extend(elements)
        return bytes(message.SerializeToString())

    return made


def _raw(datatype: str, shape: tuple[int, ...], data: bytes) -> Callable[[], bytes]:
    def made() -> bytes:
        message = ModelInferRequest(model_name="m", raw_input_contents=[data])
        message.inputs.add(name="x", datatype=datatype, shape=shape)
        return bytes(message.SerializeToString())

    return made


WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "no message": (lambda: b"\xff\xff\xff", "not a ModelInferRequest"),
    "cut off": (lambda: _edit(lambda m: None)()[:-1], "not a ModelInferRequest"),
    "text that is not UTF-8": (lambda: b"\x0a\x01\xff", "not a ModelInferRequest"),
    "no inputs": (_edit(lambda m: (m.ClearField("inputs"), m.ClearField("raw_input_contents"))), "empty"),
    "only raw contents": (_edit(lambda m: m.ClearField("inputs")), "empty"),
    "too few raw contents": (
        _edit(lambda m: m.raw_input_contents.pop()),
        "1 raw_input_contents for 2 inputs",
    ),
    "too many raw contents": (
        _edit(lambda m: m.raw_input_contents.append(b"")),
        "3 raw_input_contents for 2",
    ),
    "raw and typed contents": (
        _edit(lambda m: m.inputs[1].contents.int_contents.append(1)),
        "'y': `contents` and raw_input_contents exclude each other",
    ),
    "raw and empty contents": (_edit(lambda m: m.inputs[0].contents.SetInParent()), "exclude each other"),
    "a name twice": (_edit(lambda m: setattr(m.inputs[1], "name", "x")), "names 'x' twice"),
    "no name": (_edit(lambda m: setattr(m.inputs[1], "name", "")), "without a name"),
    "unknown datatype": (
        _edit(lambda m: setattr(m.inputs[0], "datatype", "FP128")),
        "unknown datatype 'FP128'",
    ),
    "no datatype": (_edit(lambda m: setattr(m.inputs[0], "datatype", "")), "unknown datatype ''"),
    "negative size": (_edit(lambda m: m.inputs[0].shape.append(-1)), "whole numbers from 0"),
    "too many dimensions": (_edit(lambda m: m.inputs[0].shape.extend([1] * 40)), "'x'"),
    "shared memory": (
        _edit(lambda m: m.inputs[0].parameters["shared_memory_region"].MergeFrom(_param("r"))),
        "shared memory",
    ),
    "output in shared memory": (
        _edit(lambda m: m.outputs.add(name="o").parameters["shared_memory_region"].MergeFrom(_param("r"))),
        "`shared_memory_region` is not supported",
    ),
    "classification": (
        _edit(lambda m: setattr(m.outputs.add(name="o").parameters["classification"], "int64_param", 3)),
        "`classification` is not supported",
    ),
    "an output twice": (
        _edit(lambda m: (m.outputs.add(name="o"), m.outputs.add(name="o"))),
        "names 'o' twice",
    ),
    "an output without a name": (_edit(lambda m: m.outputs.add()), "without a name"),
    "long id": (_edit(lambda m: setattr(m, "id", "i" * 1025)), "`id`"),
    "priority as text": (_edit(lambda m: m.parameters["priority"].MergeFrom(_param("1"))), "`priority`"),
    "negative priority": (
        _edit(lambda m: setattr(m.parameters["priority"], "int64_param", -1)),
        "`priority`",
    ),
    "negative timeout": (_edit(lambda m: setattr(m.parameters["timeout"], "int64_param", -1)), "`timeout`"),
    "timeout as fraction": (
        _edit(lambda m: setattr(m.parameters["timeout"], "double_param", 1.0)),
        "`timeout`",
    ),
    "sequence": (_edit(lambda m: setattr(m.parameters["sequence_id"], "int64_param", 9)), "`sequence_id`"),
    "sequence by name": (
        _edit(lambda m: m.parameters["sequence_id"].MergeFrom(_param("s"))),
        "`sequence_id`",
    ),
    "start of a sequence": (
        _edit(lambda m: setattr(m.parameters["sequence_start"], "bool_param", True)),
        "`sequence_start`",
    ),
    "raw too short": (_raw("FP32", (2, 2), bytes(15)), "15 bytes"),
    "raw too long": (_raw("FP32", (2, 2), bytes(17)), "17 bytes"),
    "raw of nothing": (_raw("FP32", (1,), b""), "0 bytes"),
    "raw BOOL of 2": (_raw("BOOL", (2,), b"\x01\x02"), "BOOL"),
    "raw BYTES cut off": (_raw("BYTES", (1,), b"\x05\x00\x00\x00abc"), "longer than what was sent"),
    "raw BYTES, one too many": (_raw("BYTES", (1,), bytes(8)), "follow the last element"),
    "raw beyond all memory": (_raw("FP64", (2**40, 2**40), bytes(8)), "8 bytes"),
    "raw sizes that nobody can multiply": (_raw("FP32", (0, 2**62, 2**62), b""), "'x'"),
    "typed sizes that nobody can multiply": (_typed("FP32", (0, 2**62, 2**62)), "'x'"),
    "neither raw nor typed": (_typed("FP32", (2,)), "0 elements"),
    "too few elements": (_typed("INT32", (3,), int_contents=[1, 2]), "2 elements where its shape has 3"),
    "too many elements": (_typed("BYTES", (1,), bytes_contents=[b"a", b"b"]), "2 elements"),
    "the wrong field": (
        _typed("FP32", (1,), fp64_contents=[1.0]),
        "belongs into fp32_contents, not into fp64",
    ),
    "two fields": (_typed("FP32", (1,), fp32_contents=[1.0], int_contents=[1]), "not into int_contents"),
    "FP16 as elements": (_typed("FP16", (1,), fp32_contents=[1.0]), "raw_input_contents only"),
    "BF16 as nothing": (_typed("BF16", (0,)), "raw_input_contents only"),
    "INT8 too large": (_typed("INT8", (2,), int_contents=[1, 128]), "does not fit INT8"),
    "INT16 too small": (_typed("INT16", (1,), int_contents=[-(2**15) - 1]), "does not fit INT16"),
    "UINT8 too large": (_typed("UINT8", (1,), uint_contents=[256]), "does not fit UINT8"),
    "crumbs": (lambda: b"\x2a\x00" * 50_000, "more than 16384 fields"),
    "crumbs in one input": (lambda: b"\x2a\xa0\x8d\x06" + b"\x22\x00" * 50_000, "more than 16384 fields"),
    "crumbs in one output": (lambda: b"\x32\xa0\x8d\x06" + b"\x12\x00" * 50_000, "more than 16384 fields"),
    "large and no message": (lambda: b"\xff" * 100_000, "not a ModelInferRequest"),
    "large and cut off": (lambda: b"\x3a\xff\xff\xff\x7f" + bytes(100_000), "not a ModelInferRequest"),
}


def _param(text: str) -> Any:
    return type(ModelInferRequest().parameters["p"])(string_param=text)


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_with_a_request_is_said(name: str) -> None:
    data, message = WRONG[name]
    with pytest.raises(InferenceError) as failure:
        decode_request(parse_request(data()))
    assert failure.value.status == 400
    assert message in failure.value.message
    assert len(failure.value.message) < 300


def test_a_large_request_is_read_whatever_its_form() -> None:
    array = np.arange(100_000, dtype=np.float32)
    message = request_of("m", {"x": array})
    assert same(decoded(message).inputs["x"], array)
    del message.raw_input_contents[:]
    message.inputs[0].contents.fp32_contents.extend(array.tolist())
    assert same(decoded(message).inputs["x"], array)
    words = object_array([b"w"] * 50_000)
    message = ModelInferRequest(model_name="m")
    message.inputs.add(name="x", datatype="BYTES", shape=[50_000]).contents.bytes_contents.extend(words)
    assert same(decoded(message).inputs["x"], words)
