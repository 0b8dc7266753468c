"""Files that are not what they say: a LoadError with the reason, and nothing is allocated."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from modelway_runtime.serving.backends import architecture
from modelway_runtime.serving.backends.base import LoadError
from tests.runtime.torch.torch_helpers import load, peak_memory, spec, write

X, Y = {"x": spec("FP32", -1, 2)}, {"y": spec("FP32", -1, 2)}
LINEAR = {"0.weight": torch.ones(2, 2), "0.bias": torch.ones(2)}
PLAIN = ["Linear", {"in_features": 2, "out_features": 2}]
DEEP = ["ReLU", {}]
for _ in range(40):
    DEEP = ["Sequential", {"layers": [DEEP]}]

DECLARATIONS = [
    ("{", "Input data was truncated"),
    ("[]", "Expected `object`, got `array`"),
    ("", "truncated"),
    ("\x00", "malformed"),
    ({}, "has one of `layers` and `factory`"),
    ({"layers": [PLAIN], "factory": "f"}, "has one of `layers` and `factory`"),
    ({"layers": [PLAIN], "arguments": {"a": 1}}, "`arguments` belong to a `factory`"),
    ({"layers": [PLAIN], "code": "import os"}, "unknown field `code`"),
    ({"layers": "Linear"}, "Expected `array \\| null`, got `str`"),
    ({"layers": [["Linear"]]}, "length 2"),
    ({"layers": [["Linear", []]]}, "Expected `object`, got `array`"),
    ({"layers": [["LSTM", {}]]}, "unknown layer 'LSTM': one of Sequential, Residual, Linear"),
    ({"layers": [["Module.__init__", {}]]}, "unknown layer"),
    ({"layers": [["../../etc/passwd", {}]]}, "unknown layer '../../etc/passwd'"),
    ({"layers": [["A" * 10000, {}]]}, r"unknown layer 'A{50,80}\.\.\."),
    ({"layers": [["ReLU", {"inplace": True}]]}, "ReLU takes no 'inplace'; it takes nothing"),
    ({"layers": [["Linear", {"device": "cuda"}]]}, "Linear takes no 'device'; it takes in_features, out_features"),
    ({"layers": [["Linear", {"in_features": 2}]]}, "missing 1 required positional argument: 'out_features'"),
    ({"layers": [["Linear", {"in_features": -2, "out_features": 2}]]}, "`in_features`: Expected `int` >= 1"),
    ({"layers": [["Linear", {"in_features": 2.5, "out_features": 2}]]}, "`in_features`: Expected `int`"),
    ({"layers": [["Linear", {"in_features": True, "out_features": 2}]]}, "`in_features`: Expected `int`, got `bool`"),
    ({"layers": [["Linear", {"in_features": "2", "out_features": 2}]]}, "`in_features`: Expected `int`, got `str`"),
    ({"layers": [["Linear", {"in_features": 2, "out_features": 10**30}]]}, "`out_features`: "),
    ({"layers": [["Linear", {"in_features": 2, "out_features": 2, "dtype": "__class__"}]]}, "`dtype`: Invalid enum"),
    ({"layers": [["Linear", {"in_features": 2**31 - 1, "out_features": 2**31 - 1}]]}, "Linear: RuntimeError: Storage size"),
    ({"layers": [["Linear", {"in_features": 2**15, "out_features": 2**15}]]}, r"holds float32 \[2, 2\], the layers need float32 \[32768, 32768\]"),
    ({"layers": [["Linear", {"in_features": 3, "out_features": 2}]]}, r"0\.weight: the file holds float32 \[2, 2\], the layers need float32 \[2, 3\]"),
    ({"layers": [["Linear", {"in_features": 2, "out_features": 2, "dtype": "float16"}]]}, r"the file holds float32 .* need float16"),
    ({"layers": [["Linear", {"in_features": 2, "out_features": 2, "bias": False}]]}, r"has, but the layers do not, '0\.bias'"),
    ({"layers": [PLAIN, PLAIN]}, r"the file lacks '1\.bias', '1\.weight'"),
    ({"layers": [PLAIN, PLAIN, PLAIN]}, r"and 1 more"),
    ({"layers": []}, r"has, but the layers do not, '0\.bias', '0\.weight'"),
    ({"layers": [["Conv2d", {"in_channels": 3, "out_channels": 4, "kernel_size": 3, "groups": 2}]]}, "must be divisible by groups"),
    ({"layers": [["Conv2d", {"in_channels": 1, "out_channels": 1, "kernel_size": [1, 1, 1, 1]}]]}, "`kernel_size`: Expected `array` of length <= 3"),
    ({"layers": [["AdaptiveAvgPool2d", {"output_size": 10**6}]]}, "`output_size`: Expected `int` <= 1024"),
    ({"layers": [["MaxPool2d", {"kernel_size": 0}]]}, "`kernel_size`: Expected `int` >= 1"),
    ({"layers": [["Dropout", {"p": 2}]]}, "dropout probability"),
    ({"layers": [["Embedding", {"num_embeddings": 2, "embedding_dim": 2, "padding_idx": 10**30}]]}, "Embedding: "),
    ({"layers": [["Residual", {"layers": [PLAIN], "gain": 2}]]}, "Residual: .*unknown field `gain`"),
    ({"layers": [["Sequential", {}]]}, "missing required field `layers`"),
    ({"layers": [DEEP]}, "nested deeper than 16"),
    ('{"layers":' + '[["Sequential",{"layers":' * 5000, "maximum recursion depth"),
    ('{"factory":"f","arguments":' + '{"a":' * 20000, "recursion"),
    ("[" * 200000, "Expected `object`, got `array`"),
    ('{"layers":[' + '["ReLU",{}],' * 30000 + "]}", "is 360013 characters long; at most 262144 are read"),
    ({"factory": "os:system", "arguments": {"command": "id"}}, "factory 'os:system': no installed package offers it"),
    ({"factory": "../evil"}, "no installed package offers it in the entry point group"),
    ({"layers": [PLAIN], "inputs": {"x": {"datatype": "COMPLEX", "shape": [1]}}}, "Invalid enum value 'COMPLEX'"),
    ({"layers": [PLAIN], "inputs": {"x": {"datatype": "FP32", "shape": [-2]}}}, "Expected `int` >= -1"),
    ({"layers": [PLAIN], "inputs": {"a\n": {"datatype": "FP32", "shape": []}}}, "matching regex"),
]  # fmt: skip


@pytest.mark.parametrize(("declaration", "says"), DECLARATIONS, ids=range(len(DECLARATIONS)))
def test_declaration(tmp_path: Path, declaration: object, says: str) -> None:
    path = write(tmp_path / "m.safetensors", declaration, LINEAR)
    before = peak_memory()
    with pytest.raises(LoadError, match=rf"(?s)^m\.safetensors: .*{says}") as caught:
        load(path)
    assert peak_memory() - before < 64 * 2**20
    assert len(str(caught.value)) < 1000
    assert "frame #" not in str(caught.value)


def test_a_declaration_with_two_inputs(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    architecture.save(nn.Sequential(nn.ReLU()), path, X | {"z": spec("FP32", -1)}, Y)
    with pytest.raises(LoadError, match="take one input and give one output, not 2 and 1"):
        load(path)


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "1.weight", "0.weight\n", ""])
def test_a_tensor_too_many(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "m.safetensors", {"layers": [PLAIN]}, LINEAR | {name: torch.ones(1)})
    with pytest.raises(LoadError, match="the file has, but the layers do not, '"):
        load(path)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16, torch.int32, torch.bool])
def test_a_tensor_of_another_datatype(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = LINEAR | {"0.bias": torch.ones(2).to(dtype)}
    path = write(tmp_path / "m.safetensors", {"layers": [PLAIN]}, tensors)
    with pytest.raises(LoadError, match=r"0\.bias: the file holds .*, the layers need float32 \[2\]"):
        load(path)


def test_no_declaration(tmp_path: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file(LINEAR, tmp_path / "m.safetensors")
    with pytest.raises(LoadError, match=r"metadata lack `modelway\.architecture`.*architecture\.save"):
        load(tmp_path / "m.safetensors")


HEADER = json.dumps({"0.weight": {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}}).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff" * 8,
        b"\x80\x04K\x01.",
        struct.pack("<Q", 2**40) + b"{}",
        struct.pack("<Q", 7) + b"not {}}",
        struct.pack("<Q", len(HEADER)) + HEADER + b"\0" * 16,
    ],
)
def test_not_safetensors(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "m.safetensors").write_bytes(data)
    before = peak_memory()
    with pytest.raises(LoadError, match=r"^m\.safetensors: not a safetensors file: "):
        load(tmp_path / "m.safetensors")
    assert peak_memory() - before < 64 * 2**20


@pytest.mark.parametrize("name", ["m.safetensors", "m.pt", "m.pt2", "m.onnx", "m"])
def test_no_such_file(tmp_path: Path, name: str) -> None:
    with pytest.raises(LoadError, match=rf"^{name}: "):
        load(tmp_path / name)


def test_a_cut_file(tmp_path: Path) -> None:
    path = tmp_path / "m.safetensors"
    architecture.save(nn.Sequential(nn.Linear(2, 2)), path, X, Y)
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(LoadError, match="not a safetensors file"):
        load(path)
