"""Messages that are cheap to send and dear to parse, decoded in a process of their own.

python -m tests.runtime.grpc.hostile_messages    the peak of each, as JSON
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial

from modelway_runtime.serving.errors import InferenceError
from modelway_runtime.serving.grpc.codec import decode_request, parse_request
from modelway_runtime.serving.grpc.messages import ModelInferRequest
from modelway_runtime.serving.tensors import MAX_TEXTS
from tests.support.memory import peak_growth

SIZE = 4 * 2**20
FIELDS = {"BOOL": 1, "INT32": 2, "INT64": 3, "UINT32": 4, "UINT64": 5, "FP32": 6, "FP64": 7, "BYTES": 8}


def field(number: int, content: bytes) -> bytes:
    """A field of a known length."""
    length, size = len(content), b""
    while length > 127:
        size += bytes([length & 127 | 128])
        length >>= 7
    return bytes([number << 3 | 2]) + size + bytes([length]) + content


def message(contents: bytes, datatype: str, count: int) -> bytes:
    tensor = ModelInferRequest(model_name="m").inputs
    described = tensor.add(name="x", datatype=datatype, shape=[count]).SerializeToString()
    return field(1, b"m") + field(5, described + field(5, contents))


def messages() -> Iterator[tuple[str, bytes]]:
    for datatype, number in FIELDS.items():
        for size, element in ((1, b"\1"), (2, b"\xff\1"), (4, b"\0\0\0\1"), (10, b"\xff" * 9 + b"\1")):
            count = SIZE // size
            width = {"FP32": 4, "FP64": 8}.get(datatype)
            elements = count * size // width if width else count
            yield f"packed {datatype} of {size}", message(field(number, element * count), datatype, elements)
        for count in (2**17, 2**20):
            yield f"{count} packed {datatype}", message(field(number, b"\1" * count), datatype, count)
        one = field(number, b"") if datatype == "BYTES" else bytes([number << 3, 1])
        yield f"{datatype} one by one", message(one * (SIZE // 2), datatype, SIZE // 2)
        yield f"few {datatype} one by one", message(one * MAX_TEXTS, datatype, MAX_TEXTS)
    yield "short texts", message(field(8, b"ab") * MAX_TEXTS, "BYTES", MAX_TEXTS)
    yield "long texts", message(field(8, b"a" * 100) * (SIZE // 102), "BYTES", SIZE // 102)
    yield "a long text", message(field(8, b"a" * SIZE), "BYTES", 1)
    for number in range(1, 8):
        yield f"empty fields {number}", field(number, b"") * (SIZE // 2)
        yield f"a long field {number}", field(number, b"a" * SIZE)
        yield f"a long field {number} beyond ASCII", field(number, b"a" * SIZE + "😀".encode())
    for number in range(1, 6):
        yield f"a tensor of empty fields {number}", field(5, field(number, b"") * (SIZE // 2))
    parameter = field(4, field(1, b"ab") + field(2, field(3, b"")))
    yield "parameters", parameter * (SIZE // len(parameter))
    yield "parameters of a tensor", field(5, parameter * (SIZE // len(parameter)))
    raw = ModelInferRequest(model_name="m")
    raw.inputs.add(name="x", datatype="FP32", shape=[SIZE // 4])
    yield "raw", raw.SerializeToString() + field(7, bytes(SIZE))
    raw.inputs[0].datatype, raw.inputs[0].shape[0] = "BYTES", SIZE // 4
    yield "raw texts", raw.SerializeToString() + field(7, bytes(SIZE))
    raw.inputs[0].shape[0] = MAX_TEXTS
    yield "few raw texts", raw.SerializeToString() + field(7, b"\2\0\0\0ab" * MAX_TEXTS)


def decoded(data: bytes) -> object:
    try:
        parsed = parse_request(data)
        return parsed, decode_request(parsed)
    except InferenceError as error:
        assert error.status == 400, error.message  # noqa: PT017  # a process of its own, not a test
        return error.message


def main() -> None:
    decoded(next(messages())[1])  # what is imported and made once
    grown = [(name, len(data), peak_growth(partial(decoded, data))) for name, data in messages()]
    print(json.dumps(grown))


if __name__ == "__main__":
    main()
