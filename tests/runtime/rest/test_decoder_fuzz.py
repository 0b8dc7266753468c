"""The decoder of bodies alone: whatever comes is a valid request or an InferenceError of status 400."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from modelway_runtime.serving import json_body, json_elements, rest_codec
from modelway_runtime.serving.errors import InferenceError
from modelway_runtime.serving.tensors import DTYPES
from modelway_runtime.serving.values import InferenceRequest, InferenceResponse
from tests.runtime.rest.rest_helpers import Array, binary_request, json_request, same, texts

JSON_TOO = [datatype for datatype in DTYPES if datatype not in ("FP16", "BF16")]
bounded = settings(
    max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck)
)
shapes = npst.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6)


def decoded(body: bytes, header_length: int | None) -> InferenceRequest | None:
    """The request, or None where it is refused as the fault of the caller."""
    try:
        request, wanted = rest_codec.Decoder().decode(body, header_length, "m", None)
    except InferenceError as error:
        refused = error
    else:
        checked(request, wanted)
        return request
    assert refused.status == 400
    assert refused.message
    refused.message.encode()
    return None


def checked(request: InferenceRequest, wanted: rest_codec.Wanted) -> None:
    """A request is what its types say."""
    assert request.inputs
    for name, array in request.inputs.items():
        assert name
        assert array.dtype in DTYPES.values()
        if array.dtype == object:
            assert all(type(element) is bytes for element in array.ravel())
    assert set(wanted.binary) == set(request.outputs)
    assert request.timeout_s is None or request.timeout_s > 0


@st.composite
def tensors(draw: Any, datatypes: tuple[str, ...] = tuple(DTYPES)) -> Array:
    """A tensor of any datatype, shape and bits."""
    datatype, shape = draw(st.sampled_from(datatypes)), draw(shapes)
    count = int(np.prod(shape, dtype=np.int64))
    if datatype == "BYTES":
        elements = draw(st.lists(st.binary(max_size=5), min_size=count, max_size=count))
        return texts(*elements).reshape(shape)
    dtype = DTYPES[datatype]
    if datatype == "BOOL":
        data = bytes(draw(st.lists(st.integers(0, 1), min_size=count, max_size=count)))
    else:
        data = draw(st.binary(min_size=count * dtype.itemsize, max_size=count * dtype.itemsize))
    return np.frombuffer(data, dtype).reshape(shape)


@given(st.dictionaries(names, tensors(), min_size=1, max_size=3), st.text(max_size=5), st.integers(0, 9))
@bounded
def test_what_is_encoded_is_decoded(inputs: dict[str, Array], request_id: str, priority: int) -> None:
    try:
        request_id.encode()
    except UnicodeEncodeError:  # no text that JSON can carry
        request_id = ""
    request = InferenceRequest("m", inputs, None, ("y",), request_id, priority)
    body, length = rest_codec.encode_request(request)
    again = decoded(body, length)
    assert again is not None
    assert (again.id, again.priority, again.outputs) == (request_id, priority, ("y",))
    assert list(again.inputs) == list(inputs)
    for name, array in inputs.items():
        same(again.inputs[name], array)


@given(st.dictionaries(names, tensors(), min_size=1, max_size=3))
@bounded
def test_an_answer_that_is_encoded_is_decoded(outputs: dict[str, Array]) -> None:
    binary = rest_codec.Wanted({}, binary_default=True)
    body, length = rest_codec.encode_response(InferenceResponse("m", "1", outputs), binary, "")
    version, again = rest_codec.decode_response(body, length)
    assert version == "1"
    assert list(again) == list(outputs)
    for name, array in outputs.items():
        same(again[name], array)


@pytest.mark.parametrize("datatype", JSON_TOO)
@given(data=st.data())
@settings(bounded, max_examples=40)
def test_numbers_and_text_survive_json(datatype: str, data: st.DataObject) -> None:
    """The answer's JSON, given back as a request's, is the same tensor."""
    array = data.draw(tensors((datatype,)))
    if datatype == "BYTES":
        array = texts(*(element.hex().encode() for element in array.ravel())).reshape(array.shape)
    elif array.dtype.kind == "f":
        array = np.nan_to_num(array)
    plain = rest_codec.Wanted({}, binary_default=False)
    body, length = rest_codec.encode_response(InferenceResponse("m", "1", {"x": array}), plain, "")
    assert length is None
    again = decoded(json.dumps({"inputs": json.loads(body)["outputs"]}).encode(), None)
    assert again is not None
    same(again.inputs["x"], array)


@given(st.binary(max_size=200), st.none() | st.integers(-1, 210))
@bounded
def test_any_bytes(body: bytes, header_length: int | None) -> None:
    decoded(body, header_length)


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**65), 2**65) | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
sizes = st.one_of(
    st.integers(-1, 4), st.sampled_from([0, 2**31, 2**32, 2**61, 2**62, 2**63 - 1, 2**63]), anything
)
likely = st.fixed_dictionaries(
    {
        "name": st.sampled_from(["x", "y", ""]) | anything,
        "datatype": st.sampled_from([*DTYPES, "FP31"]) | anything,
        "shape": st.lists(sizes, max_size=3) | anything,
    },
    optional={
        "data": st.lists(anything, max_size=4) | anything,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": sizes}) | anything,
    },
)


@given(
    st.lists(likely, max_size=2) | anything,
    st.dictionaries(st.sampled_from(["id", "outputs", "parameters"]), anything, max_size=2),
    st.binary(max_size=12),
)
@settings(bounded, max_examples=250)
def test_json_that_is_nearly_a_request(inputs: object, more: dict[str, Any], tail: bytes) -> None:
    head = json.dumps({"inputs": inputs, **more}).encode()
    decoded(head, None)
    decoded(head + tail, len(head))


@pytest.mark.parametrize("binary", [False, True])
@given(data=st.data())
@settings(bounded, max_examples=200)
def test_valid_requests_with_some_damage(binary: bool, data: st.DataObject) -> None:
    inputs = {
        "x": np.arange(4, dtype=np.float32).reshape(2, 2),
        "t": texts(b"ab", b""),
        "b": np.array([True, False]),
    }
    body, length = json.dumps(json_request(inputs)).encode(), None
    if binary:
        body, headers = binary_request(inputs)
        length = int(*headers.values())
    damaged = bytearray(body)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged)))
        to = min(len(damaged), at + data.draw(st.integers(0, 3)))
        damaged[at:to] = data.draw(
            st.binary(max_size=3) | st.sampled_from([b"9", b"-", b"[", b"null", b'"', b"\\"])
        )
    decoded(bytes(damaged), length)


def test_heads_that_are_remembered_are_told_apart() -> None:
    """One decoder for all requests of a server: what it keeps of one is no part of another."""
    decoder = rest_codec.Decoder()
    for number in range(3000):
        x = np.full((1, 1 + number % 1500), number, np.float32)
        body, headers = binary_request({"x": x}, parameters={"priority": number % 7})
        request, _ = decoder.decode(body, int(*headers.values()), "m", None)
        same(request.inputs["x"], x)
        assert request.priority == number % 7


# Long bodies are read piece by piece


@pytest.fixture
def in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if every body with an element were long, and a piece short."""
    monkeypatch.setattr(json_body, "WHOLE_BYTES", 0)
    monkeypatch.setattr(json_elements, "WHOLE_BYTES", 2)
    monkeypatch.setattr(json_elements, "_PIECE", 16)


@pytest.mark.parametrize("datatype", JSON_TOO)
@given(data=st.data())
@settings(bounded, max_examples=60)
def test_a_long_body_is_decoded_as_a_short_one(in_pieces: None, datatype: str, data: st.DataObject) -> None:
    array = data.draw(tensors((datatype,)))
    if datatype == "BYTES":
        characters = st.characters(exclude_categories=["Cs"]) | st.sampled_from('"\\/,[]{}😀é\n')
        elements = data.draw(
            st.lists(st.text(characters, max_size=40), min_size=array.size, max_size=array.size)
        )
        array = texts(*(element.encode() for element in elements)).reshape(array.shape)
    elif array.dtype.kind == "f":
        array = np.nan_to_num(array)
    request = json_request({"x": array}, outputs=[{"name": "y"}], id="an id")
    ascii_only, indent = data.draw(st.booleans()), data.draw(st.sampled_from([None, 1]))
    body = json.dumps(request, ensure_ascii=ascii_only, indent=indent).encode()
    again = decoded(body, None)
    if not array.size and again is None:  # no long body has only lists without elements
        return
    assert again is not None
    assert (again.id, again.outputs) == ("an id", ("y",))
    same(again.inputs["x"], array)


@given(st.data())
@settings(bounded, max_examples=400)
def test_a_long_body_is_refused_where_a_short_one_is(in_pieces: None, data: st.DataObject) -> None:
    """Elements of all kinds, in lists of all kinds, with some damage."""
    element = st.sampled_from(
        ["1", "0.5", "null", "true", '"a"', '"\\""', '"[1,2]"', "[]", "{}", "-", "1e400", ""]
    )
    lists = st.recursive(
        element,
        lambda inner: st.lists(inner, max_size=4).map(lambda parts: f"[{','.join(parts)}]"),
        max_leaves=8,
    )
    datatype, content = data.draw(st.sampled_from(JSON_TOO)), data.draw(lists)
    count = data.draw(st.sampled_from([content.count(",") + 1, 0, 1, 2, 4]))
    body = (
        f'{{"inputs":[{{"name":"x","datatype":"{datatype}","shape":[{count}],"data":{content}}}]}}'.encode()
    )
    by_pieces = decoded(body, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_body, "WHOLE_BYTES", len(body))
        at_once = decoded(body, None)
    if by_pieces is not None:
        assert at_once is not None
        same(by_pieces.inputs["x"], at_once.inputs["x"])
    elif at_once is not None:
        mixed = "true" in content and datatype != "BOOL"  # a truth among numbers is one in a short list
        assert mixed or not at_once.inputs["x"].size


@pytest.mark.parametrize("size", [70_000, 300_000])
@pytest.mark.parametrize("text", ["a", "é", "😀", "\n", "a\\", '"', 'é😀\n"a'])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_long_texts_are_cut_nowhere_wrong(size: int, text: str, ascii_only: bool) -> None:
    for shift in range(13):
        long = "x" * shift + text * (size // len(text.encode()))
        x = texts(long.encode())
        again = decoded(json.dumps(json_request({"x": x}), ensure_ascii=ascii_only).encode(), None)
        assert again is not None
        same(again.inputs["x"], x)
