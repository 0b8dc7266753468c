"""Tensors through the real server: every datatype, JSON and binary, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from tests.runtime.rest.rest_helpers import (
    DTYPES,
    LENGTH,
    Array,
    binary_request,
    error_of,
    json_request,
    outputs_of,
    raw,
    same,
    texts,
)
from tests.support.serving import Json, Server

Sent = tuple[Any, dict[str, str]]  # body and headers
BINARY_OUT: dict[str, Any] = {"parameters": {"binary_data_output": True}}
NO_JSON = ("FP16", "BF16")


def examples(datatype: str) -> Array:
    """Two rows of three that hold the extremes."""
    if datatype == "BOOL":
        return np.array([[True, False, True], [False, False, True]])
    if datatype == "BYTES":
        return texts(b"", "ü – 日本".encode(), b"a" * 3000, b" ", b'"\\\n', b"x").reshape(2, 3)
    dtype = np.dtype(DTYPES[datatype])
    if dtype.kind in "iu":
        limits = np.iinfo(dtype)
        return np.array([[limits.min, limits.max, 0], [1, limits.max - 1, 42]], dtype)
    return np.array([[0.0, -0.0, 1.5], [-2.0, 1e-3, 240.0]]).astype(dtype)


def infer(server: Server, datatype: str, body: Any, headers: dict[str, str] | None = None) -> Any:
    return server.ask("POST", f"/v2/models/identity-{datatype.lower()}/infer", body, headers)


@pytest.mark.parametrize("datatype", DTYPES)
def test_bytes_in_bytes_out(server: Server, datatype: str) -> None:
    x = examples(datatype)
    answer = infer(server, datatype, *binary_request({"x": x}, **BINARY_OUT))
    same(outputs_of(answer)["y"], x)
    assert LENGTH.lower() in answer.headers


@pytest.mark.parametrize("datatype", [d for d in DTYPES if d not in NO_JSON])
def test_json_in_json_out(server: Server, datatype: str) -> None:
    x = examples(datatype)
    answer = infer(server, datatype, json_request({"x": x}))
    same(outputs_of(answer)["y"], x)
    assert LENGTH.lower() not in answer.headers
    flat = json_request({"x": x})
    flat["inputs"][0]["data"] = np.array(flat["inputs"][0]["data"], object).ravel().tolist()
    same(outputs_of(infer(server, datatype, flat))["y"], x)


@pytest.mark.parametrize("datatype", [d for d in DTYPES if d not in NO_JSON])
def test_json_in_bytes_out_and_the_reverse(server: Server, datatype: str) -> None:
    x = examples(datatype)
    same(outputs_of(infer(server, datatype, json_request({"x": x}, **BINARY_OUT)))["y"], x)
    same(outputs_of(infer(server, datatype, *binary_request({"x": x})))["y"], x)


@pytest.mark.parametrize("datatype", NO_JSON)
def test_half_precision_has_no_form_in_json(server: Server, datatype: str) -> None:
    x = examples(datatype)
    assert datatype in error_of(infer(server, datatype, json_request({"x": x.astype(np.float32)})), 400)
    request = json_request({"x": x.astype(np.float32)})
    request["inputs"][0]["datatype"] = datatype
    assert datatype in error_of(infer(server, datatype, request), 400)
    assert datatype in error_of(infer(server, datatype, *binary_request({"x": x})), 400)


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP32", "FP64"])
def test_not_a_number_and_infinity_keep_their_bits(server: Server, datatype: str) -> None:
    dtype = np.dtype(DTYPES[datatype])
    x = np.array([[np.nan, np.inf, -np.inf]]).astype(dtype)
    x = np.concatenate((x, -x))  # NaN with the other sign
    same(outputs_of(infer(server, datatype, *binary_request({"x": x}, **BINARY_OUT)))["y"], x)


@pytest.mark.parametrize("datatype", ["FP32", "FP64"])
def test_json_says_null_for_what_is_no_number(server: Server, datatype: str) -> None:
    x = np.array([[np.nan, 1.0], [np.inf, -np.inf]], DTYPES[datatype])
    answer = infer(server, datatype, *binary_request({"x": x}))
    assert answer.json["outputs"][0]["data"] == [None, 1.0, None, None]
    request = json_request({"x": np.zeros((1, 3), DTYPES[datatype])}, **BINARY_OUT)
    request["inputs"][0]["data"] = [None, 2.5, 3]
    np.testing.assert_array_equal(outputs_of(infer(server, datatype, request))["y"], [[np.nan, 2.5, 3.0]])


@pytest.mark.parametrize("datatype", [d for d in DTYPES if "INT" in d])
def test_whole_numbers_that_do_not_fit(server: Server, datatype: str) -> None:
    limits = np.iinfo(DTYPES[datatype])
    for value in (limits.max + 1, limits.min - 1, 2**70, 1.5, 1.0, "1", None, [1, 2]):
        request = json_request({"x": np.zeros((1, 1), DTYPES[datatype])})
        request["inputs"][0]["data"] = [value]
        error_of(infer(server, datatype, request), 400)


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        ("BOOL", [1]),
        ("BOOL", ["true"]),
        ("BOOL", [None]),
        ("FP32", ["1"]),
        ("FP32", [True]),
        ("FP32", [{}]),
        ("FP32", [[1.0], [1.0, 2.0]]),
        ("BYTES", [1]),
        ("BYTES", [None]),
        ("BYTES", [["a"], {}]),
        ("FP32", {}),
        ("FP32", "1"),
        ("FP32", None),
        ("FP32", 1.0),
    ],
)
def test_data_of_another_kind(server: Server, datatype: str, data: object) -> None:
    body = {"inputs": [{"name": "x", "datatype": datatype, "shape": [1, 1], "data": data}]}
    error_of(infer(server, datatype, body), 400)


def test_single_precision_rounds_and_overflows_as_ieee_says(server: Server) -> None:
    request = json_request({"x": np.zeros((1, 3), np.float32)}, **BINARY_OUT)
    request["inputs"][0]["data"] = [0.1, 1e300, 2**64]
    expected = np.array([[0.1, np.inf, 2.0**64]], np.float32)
    same(outputs_of(infer(server, "FP32", request))["y"], expected)


def test_text_that_is_not_utf_8(server: Server) -> None:
    """onnxruntime's strings are text; the caller is told, and nothing is replaced."""
    answer = infer(server, "BYTES", *binary_request({"x": texts(b"\xff\xfe").reshape(1, 1)}))
    assert "UTF-8" in error_of(answer, 400)


def test_text_with_every_character_of_ascii(server: Server) -> None:
    x = texts(*(bytes([code]) for code in range(1, 128))).reshape(1, 127)
    same(outputs_of(infer(server, "BYTES", json_request({"x": x})))["y"], x)
    same(outputs_of(infer(server, "BYTES", *binary_request({"x": x}, **BINARY_OUT)))["y"], x)


def test_a_zero_byte_in_text_does_not_end_it(server: Server) -> None:
    x = texts(b"a\0b", b"\0").reshape(1, 2)
    same(outputs_of(infer(server, "BYTES", *binary_request({"x": x}, **BINARY_OUT)))["y"], x)


@pytest.mark.parametrize("datatype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 3), (2, 0), (0, 0)])
def test_tensors_without_elements(server: Server, datatype: str, shape: tuple[int, ...]) -> None:
    x = np.empty(shape, DTYPES[datatype])
    same(outputs_of(infer(server, datatype, *binary_request({"x": x}, **BINARY_OUT)))["y"], x)
    if datatype not in NO_JSON:
        same(outputs_of(infer(server, datatype, json_request({"x": x})))["y"], x)


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("datatype", ["BOOL", "FP32", "BYTES", "INT8"])
def test_a_shape_without_elements_can_still_be_too_large(server: Server, datatype: str, binary: bool) -> None:
    for shape in ([0, 2**62, 2], [2**62, 2**62, 0], [2, 0, 2**62]):
        tensor: Json = {"name": "x", "datatype": datatype, "shape": shape}
        tensor["data"] = []
        if binary:
            tensor["parameters"] = {"binary_data_size": 0}
        body = json.dumps({"inputs": [tensor]}).encode()
        error_of(infer(server, datatype, body, {LENGTH: str(len(body))} if binary else None), 400)


def test_a_scalar(server: Server) -> None:
    x = np.array(2.5)
    path = "/v2/models/scalar/infer"
    same(outputs_of(server.ask("POST", path, json_request({"x": x})))["y"], x)
    same(outputs_of(server.ask("POST", path, *binary_request({"x": x}, **BINARY_OUT)))["y"], x)
    error_of(server.ask("POST", path, json_request({"x": x.reshape(1)})), 400)


@pytest.mark.parametrize("columns", [1, 3, 17, 1000])
def test_a_dimension_that_the_request_decides(server: Server, columns: int) -> None:
    x = np.random.default_rng(columns).standard_normal((3, columns), np.float32)
    requests: list[Sent] = [(json_request({"x": x}), {}), binary_request({"x": x})]
    for request in requests:
        outputs = outputs_of(server.ask("POST", "/v2/models/row-sums/infer", *request))
        np.testing.assert_allclose(outputs["y"], x.sum(1, keepdims=True), rtol=1e-4, atol=1e-4)


def test_a_model_without_a_dimension_of_rows(server: Server) -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    path = "/v2/models/without-rows/infer"
    same(outputs_of(server.ask("POST", path, json_request({"x": x})))["y"], x + x)
    for shape in ((1, 3), (2, 2), (4, 3), (6,), (1, 2, 3), (0, 3)):
        error_of(server.ask("POST", path, json_request({"x": np.zeros(shape, np.float32)})), 400)


@pytest.mark.parametrize("pad", range(9))
def test_tensors_may_begin_at_any_address(server: Server, pad: int) -> None:
    x = np.arange(64, dtype=np.float64).reshape(4, 16)
    same(outputs_of(infer(server, "FP64", *binary_request({"x": x}, pad=pad, **BINARY_OUT)))["y"], x)


# Several tensors

A = np.array([[1, 2], [3, 4]], np.float32)
B = np.array([[10, 20], [30, 40]], np.float32)
TWO = "/v2/models/two-of-two/infer"


def test_tensors_are_taken_by_name_and_bytes_by_order(server: Server) -> None:
    requests: list[Sent] = [
        (json_request({"a": A, "b": B}), {}),
        (json_request({"b": B, "a": A}), {}),
        binary_request({"a": A, "b": B}),
        binary_request({"b": B, "a": A}),
        binary_request({"a": A}, in_json={"b": B}),
        binary_request({"b": B}, in_json={"a": A}),
    ]
    for request in requests:
        outputs = outputs_of(server.ask("POST", TWO, *request))
        assert list(outputs) == ["sum", "difference"]
        same(outputs["sum"], A + B)
        same(outputs["difference"], A - B)


@pytest.mark.parametrize("names", [["sum"], ["difference"], ["sum", "difference"], ["difference", "sum"]])
def test_only_what_is_asked_for_is_answered(server: Server, names: list[str]) -> None:
    body = json_request({"a": A, "b": B}, outputs=[{"name": name} for name in names])
    outputs = outputs_of(server.ask("POST", TWO, body))
    assert list(outputs) == names
    for name in names:
        same(outputs[name], A + B if name == "sum" else A - B)


@pytest.mark.parametrize("default", [False, True, None])
def test_each_output_in_the_form_that_is_asked_for(server: Server, default: bool | None) -> None:
    more: Json = {} if default is None else {"parameters": {"binary_data_output": default}}
    wanted = [
        {"name": "sum", "parameters": {"binary_data": True}},
        {"name": "difference", "parameters": {"binary_data": False}},
    ]
    answer = server.ask("POST", TWO, json_request({"a": A, "b": B}, outputs=wanted, **more))
    head = json.loads(answer.body[: int(answer.headers[LENGTH.lower()])])
    assert ["data" in output for output in head["outputs"]] == [False, True]
    same(outputs_of(answer)["sum"], A + B)
    same(outputs_of(answer)["difference"], A - B)
    bare = json_request({"a": A, "b": B}, outputs=[{"name": "sum"}], **more)
    assert (LENGTH.lower() in server.ask("POST", TWO, bare).headers) == bool(default)


@pytest.mark.parametrize(
    "outputs",
    [
        [{"name": "nosuch"}],
        [{"name": "sum"}, {"name": "nosuch"}],
        [{"name": "sum"}, {"name": "sum"}],
        [{"name": ""}],
        [{"name": 1}],
        [{}],
        ["sum"],
        {"name": "sum"},
        "sum",
        [{"name": "sum", "parameters": []}],
        [{"name": "sum", "parameters": {"binary_data": 1}}],
        [{"name": "sum", "parameters": {"classification": 2}}],
    ],
)
def test_outputs_asked_for_wrongly(server: Server, outputs: object) -> None:
    error_of(server.ask("POST", TWO, json_request({"a": A, "b": B}, outputs=outputs)), 400)


# What is refused

GOOD: Json = {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 4]}
WRONG_INPUTS: dict[str, Any] = {
    "no list": {},
    "none": [],
    "null": None,
    "no object": [1],
    "no name": [{**GOOD, "name": None}],
    "an empty name": [{**GOOD, "name": ""}],
    "another name": [{**GOOD, "name": "X"}],
    "twice": [GOOD, GOOD],
    "one more": [GOOD, {**GOOD, "name": "more"}],
    "no datatype": [{"name": "x", "shape": [2, 2], "data": [1, 2, 3, 4]}],
    "unknown datatype": [{**GOOD, "datatype": "FP31"}],
    "lower case": [{**GOOD, "datatype": "fp32"}],
    "a list for a datatype": [{**GOOD, "datatype": ["FP32"]}],
    "another datatype": [{**GOOD, "datatype": "FP64"}],
    "no shape": [{"name": "x", "datatype": "FP32", "data": [1, 2, 3, 4]}],
    "fewer dimensions": [{**GOOD, "shape": [4]}],
    "more dimensions": [{**GOOD, "shape": [2, 2, 1]}],
    "negative": [{**GOOD, "shape": [-2, -2]}],
    "any": [{**GOOD, "shape": [-1, 2]}],
    "fractions": [{**GOOD, "shape": [2.0, 2]}],
    "true": [{**GOOD, "shape": [True, 4]}],
    "text": [{**GOOD, "shape": "22"}],
    "an endless shape": [{**GOOD, "shape": [1] * 33}],
    "beyond 64 bits": [{**GOOD, "shape": [2**63, 2]}],
    "fewer elements": [{**GOOD, "data": [1, 2, 3]}],
    "more elements": [{**GOOD, "data": [1, 2, 3, 4, 5]}],
    "no data": [{"name": "x", "datatype": "FP32", "shape": [2, 2]}],
    "parameters that are none": [{**GOOD, "parameters": [1]}],
    "a size without bytes": [{**GOOD, "parameters": {"binary_data_size": 16}}],
    "a negative size": [{**GOOD, "parameters": {"binary_data_size": -16}}],
    "a size of text": [{**GOOD, "parameters": {"binary_data_size": "16"}}],
    "a huge size": [{**GOOD, "parameters": {"binary_data_size": 2**63}}],
}


@pytest.mark.parametrize("inputs", WRONG_INPUTS.values(), ids=WRONG_INPUTS.keys())
def test_wrong_inputs(server: Server, inputs: object) -> None:
    error_of(infer(server, "FP32", {"inputs": inputs}), 400)


@pytest.mark.parametrize(
    "more",
    [
        {"parameters": 1},
        {"parameters": {"binary_data_output": 1}},
        {"parameters": {"priority": -1}},
        {"parameters": {"priority": "high"}},
        {"parameters": {"timeout": -1}},
        {"parameters": {"timeout": 0.5}},
        {"parameters": {"sequence_id": 7}},
    ],
)
def test_wrong_parameters(server: Server, more: Json) -> None:
    error_of(infer(server, "FP32", {"inputs": [GOOD], **more}), 400)


@pytest.mark.parametrize(
    "more",
    [
        {"parameters": {"priority": 1, "timeout": 5_000_000, "anything": {"else": []}}},
        {"parameters": {"priority": 2**31}},
        {"parameters": {}},
        {"parameters": None},
        {"outputs": []},
        {"outputs": None},
        {"something": "new"},
    ],
)
def test_what_may_stand_in_a_request(server: Server, more: Json) -> None:
    outputs = outputs_of(infer(server, "FP32", {"inputs": [GOOD], **more}))
    same(outputs["y"], np.array([[1, 2], [3, 4]], np.float32))


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"1",
        b"\xff\xfe",
        b'{"inputs": [], "inputs"}',
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"inputs": NaN}',
        b'{"id": "\\ud800", "inputs": []}',
        b"\xef\xbb\xbf{}",
        b"{} {}",
    ],
    ids=range(13),
)
def test_a_body_that_is_no_json_object(server: Server, body: bytes) -> None:
    error_of(infer(server, "FP32", body), 400)


def test_the_length_of_the_json_is_checked(server: Server) -> None:
    x = np.array([[1.0, 2.0]], np.float32)
    body, headers = binary_request({"x": x}, **BINARY_OUT)
    right = int(headers[LENGTH])
    same(outputs_of(infer(server, "FP32", body, headers))["y"], x)
    same(outputs_of(infer(server, "FP32", body, {LENGTH: f"00{right}"}))["y"], x)
    for wrong in (0, -1, 1, right - 1, right + 1, right + 8, len(body), len(body) + 1, 2**63, 10**30):
        error_of(infer(server, "FP32", body, {LENGTH: str(wrong)}), 400)
    for text in ("", "x", f"{right}.0", f"0x{right:x}", f"+{right}", f"{right},{right}", "\xb2"):
        error_of(infer(server, "FP32", body, {LENGTH: text}), 400)
    error_of(infer(server, "FP32", body), 400)  # without it the body is JSON
    error_of(infer(server, "FP32", body[:-1], headers), 400)
    error_of(infer(server, "FP32", body + b"\0", headers), 400)


def test_sizes_of_binary_tensors_are_checked(server: Server) -> None:
    x = np.array([[1.0, 2.0]], np.float32)
    for declared, sent in ((8, 7), (8, 9), (7, 7), (9, 9), (0, 0), (16, 16), (2**40, 8)):
        tensor = {
            "name": "x",
            "datatype": "FP32",
            "shape": [1, 2],
            "parameters": {"binary_data_size": declared},
        }
        head = json.dumps({"inputs": [tensor]}).encode()
        body = head + (raw(x) * 2)[:sent]
        error_of(infer(server, "FP32", body, {LENGTH: str(len(head))}), 400)


@pytest.mark.parametrize(
    "data",
    [
        b"\x01\0\0\0",  # an element is missing
        b"\x02\0\0\0a\0\0\0\0",  # the first takes what is the second's
        b"\xff\xff\xff\xffa\0\0\0\0",
        b"\0\0\0\0\0\0\0",  # half a length
        b"\0\0\0\0\0\0\0\0\0",  # one byte more
        b"",
    ],
)
def test_lengths_of_text_are_checked(server: Server, data: bytes) -> None:
    tensor = {
        "name": "x",
        "datatype": "BYTES",
        "shape": [1, 2],
        "parameters": {"binary_data_size": len(data)},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    error_of(infer(server, "BYTES", head + data, {LENGTH: str(len(head))}), 400)


def test_a_bool_is_zero_or_one(server: Server) -> None:
    tensor = {"name": "x", "datatype": "BOOL", "shape": [1, 2], "parameters": {"binary_data_size": 2}}
    head = json.dumps({"inputs": [tensor]}).encode()
    error_of(infer(server, "BOOL", head + b"\1\2", {LENGTH: str(len(head))}), 400)


def test_rows_of_two_inputs_must_agree(server: Server) -> None:
    error_of(server.ask("POST", TWO, json_request({"a": A, "b": B[:1]})), 400)
    assert "'b'" in error_of(server.ask("POST", TWO, json_request({"a": A})), 400)


def test_a_request_is_answered_alike_each_time(server: Server) -> None:
    """The server remembers the JSON of binary requests: other bytes behind the same JSON are another request."""
    for seed in range(5):
        x = np.random.default_rng(seed).standard_normal((2, 2), np.float32)
        same(outputs_of(infer(server, "FP32", *binary_request({"x": x}, **BINARY_OUT)))["y"], x)
        other = json_request({"x": x})["inputs"]
        same(outputs_of(infer(server, "FP32", {"inputs": other, **BINARY_OUT}))["y"], x)
