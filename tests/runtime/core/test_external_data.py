"""ONNX models that keep tensors in other files, which the digest of their own file does not cover."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from modelway_runtime.serving.external_data import CHILDREN, Escapes, NotOnnx, other_files
from modelway_runtime.serving.sources import SourceError, fetch
from tests.support import serving

NUMBERS = np.arange(4, dtype=np.float32)


def tensor(location: str = "weights.bin") -> TensorProto:
    """A tensor in another file."""
    made = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4])
    made.data_location = TensorProto.EXTERNAL
    made.external_data.add(key="offset", value="0")
    made.external_data.add(key="location", value=location)
    return made


def sparse(part: str) -> onnx.SparseTensorProto:
    inside = numpy_helper.from_array(np.ones(1, np.float32), "w")
    return onnx.SparseTensorProto(
        dims=[4],
        values=tensor() if part == "values" else inside,
        indices=tensor() if part == "indices" else inside,
    )


def constant(**attribute: Any) -> onnx.NodeProto:
    node = onnx.NodeProto(op_type="Constant", output=["w"])
    node.attribute.add(name="value", **attribute)
    return node


def inside(depth: int) -> onnx.GraphProto:
    """A graph in a graph, so deep, with the tensor in the last."""
    graph = onnx.GraphProto(name="last", initializer=[tensor()])
    for level in range(depth):
        node = onnx.NodeProto(op_type="If")
        if level % 2:
            node.attribute.add(name="then_branch", type=onnx.AttributeProto.GRAPH, g=graph)
        else:
            node.attribute.add(name="bodies", type=onnx.AttributeProto.GRAPHS, graphs=[graph])
        graph = onnx.GraphProto(name=str(level), node=[node])
    return graph


def of_nodes(*nodes: onnx.NodeProto) -> onnx.ModelProto:
    return onnx.ModelProto(ir_version=9, graph=onnx.GraphProto(name="g", node=nodes))


PLACES: dict[str, onnx.ModelProto] = {
    "an initializer": onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor()])),
    "values of a sparse one": onnx.ModelProto(graph=onnx.GraphProto(sparse_initializer=[sparse("values")])),
    "indices of a sparse one": onnx.ModelProto(graph=onnx.GraphProto(sparse_initializer=[sparse("indices")])),
    "a constant": of_nodes(constant(t=tensor())),
    "a sparse constant": of_nodes(constant(sparse_tensor=sparse("values"))),
    "a list of tensors": of_nodes(constant(tensors=[tensor()])),
    "a list of sparse ones": of_nodes(constant(sparse_tensors=[sparse("values")])),
    "a function": onnx.ModelProto(functions=[onnx.FunctionProto(node=[constant(t=tensor())])]),
    "a function's default": onnx.ModelProto(
        functions=[onnx.FunctionProto(attribute_proto=[onnx.AttributeProto(name="a", t=tensor())])]
    ),
    "a training graph": onnx.ModelProto(training_info=[onnx.TrainingInfoProto(algorithm=inside(1))]),
    "its initialisation": onnx.ModelProto(training_info=[onnx.TrainingInfoProto(initialization=inside(0))]),
    **{f"a graph {depth} deep": onnx.ModelProto(graph=inside(depth)) for depth in (1, 2, 30)},
}


def written(folder: Path, model: onnx.ModelProto) -> Path:
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    return folder / "model.onnx"


@pytest.mark.parametrize("model", PLACES.values(), ids=PLACES)
def test_a_tensor_elsewhere_is_seen_wherever_the_model_names_it(
    tmp_path: Path, model: onnx.ModelProto
) -> None:
    assert other_files(written(tmp_path, model)) == ("weights.bin",)


def test_every_message_that_holds_a_tensor_is_entered() -> None:
    """By ONNX's own descriptors: a newer ONNX with another place fails here."""

    def holds(message: Any, above: tuple[str, ...] = ()) -> bool:
        if message.name == "TensorProto":
            return True
        if message.name in above:
            return False
        return any(holds(f.message_type, (*above, message.name)) for f in message.fields if f.message_type)

    seen, waiting = {"TensorProto"}, [onnx.ModelProto.DESCRIPTOR]
    while waiting:
        message = waiting.pop()
        if message.name in seen:
            continue
        seen.add(message.name)
        due = {f.number: f.message_type for f in message.fields if f.message_type and holds(f.message_type)}
        assert CHILDREN[message.name] == {number: child.name for number, child in due.items()}
        waiting += due.values()
    assert seen == {"TensorProto", *CHILDREN}
    fields = onnx.TensorProto.DESCRIPTOR.fields_by_name
    assert (fields["data_location"].number, fields["external_data"].number) == (14, 13)


def test_a_model_in_one_file_keeps_nothing_elsewhere(tmp_path: Path) -> None:
    for model in (serving.mlp(), serving.picky(), serving.slow(0.01), serving.identity("BYTES")):
        assert other_files(written(tmp_path, model)) == ()


@pytest.mark.parametrize(
    "location",
    ["../w", "/etc/passwd", "a/../../w", "a//w", "./w", "", ".", "..", "*/_ORT_MEM_ADDR_/*", "w\0"],
)
def test_a_model_names_files_of_its_own_folder_only(tmp_path: Path, location: str) -> None:
    path = written(tmp_path, onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor(location)])))
    with pytest.raises(Escapes, match="a file of its own folder"):
        other_files(path)


def test_tricks_of_the_encoding_hide_nothing(tmp_path: Path) -> None:
    """A number cut off where an enum is due, a second message of a field, which protobuf merges, and groups."""
    plain = onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor()])).SerializeToString()
    inner = tensor().SerializeToString()
    wide = inner.replace(b"\x70\x01", b"\x70\x81\x80\x80\x80\x10")  # 2**32 + 1
    assert wide != inner
    assert TensorProto.FromString(wide).data_location == TensorProto.EXTERNAL
    graph = b"\x2a" + bytes([len(wide)]) + wide
    (tmp_path / "wide.onnx").write_bytes(b"\x3a" + bytes([len(graph)]) + graph)
    (tmp_path / "two.onnx").write_bytes(serving.mlp().SerializeToString() + plain)
    assert other_files(tmp_path / "wide.onnx") == other_files(tmp_path / "two.onnx") == ("weights.bin",)
    group = b"\xc3\x3e\x0b\x08\x01\x12\x01x\x0c\xc4\x3e"  # of an unknown field 1000, with another in it
    onnx.ModelProto.FromString(group + plain)
    (tmp_path / "group.onnx").write_bytes(group + plain)
    assert other_files(tmp_path / "group.onnx") == ("weights.bin",)


@pytest.mark.parametrize("data", [b"", b"PK\3\4", b"\0" * 100, b"\x3a\xff\x01x", b"\x3b", b"\x3a\x7f"])
def test_what_is_no_model_is_said(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "x").write_bytes(data)
    with pytest.raises(NotOnnx):
        other_files(tmp_path / "x")


# Served


def in_two_files(folder: Path, factor: float = 1.0) -> Path:
    """``y`` is the factor times ``x``, FP32 [rows, 4], as torch exports by default: with model.onnx.data."""
    model = serving.Graph(
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 4])],
        [helper.make_node("Mul", ["x", "factor"], ["y"])],
        {"factor": np.full(4, factor, np.float32)},
    ).model()
    path = folder / "model.onnx"
    options = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 0}
    (folder / "model.onnx.data").unlink(missing_ok=True)
    onnx.save_model(model, path, **options)
    assert (folder / "model.onnx.data").stat().st_size == 16
    return path


def digest(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def checked(folder: Path, **changes: Any) -> str:
    """What ``check`` says of it."""
    file = folder / "settings.json"
    file.write_text(
        json.dumps(serving.settings_of([serving.served("two", folder / "model.onnx", **changes)]))
    )
    command = [sys.executable, "-m", "modelway_runtime", "check", "--settings", str(file)]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def test_a_pinned_model_must_be_one_file(tmp_path: Path) -> None:
    path = in_two_files(tmp_path)
    said = checked(tmp_path, digest=digest(path))
    assert said.startswith("error: two 1: ")
    assert "keeps tensors in another file ('model.onnx.data'), which the digest does not cover" in said
    assert "external_data=False" in said
    assert checked(tmp_path).startswith("ok: two 1 ")


def test_fetch_brings_one_file_and_says_so(tmp_path: Path) -> None:
    path = in_two_files(tmp_path)
    for pinned in (None, digest(path)):
        with pytest.raises(SourceError, match=r"another file \('model.onnx.data'\), which is not fetched"):
            fetch(path.as_uri(), pinned, tmp_path / "to", name="model.onnx")
        assert list((tmp_path / "to").iterdir()) == []
    (tmp_path / "to" / "model.onnx").write_bytes(path.read_bytes())  # by an older version
    with pytest.raises(SourceError, match="which is not fetched"):
        fetch(path.as_uri(), digest(path), tmp_path / "to", name="model.onnx")


def test_a_change_of_the_other_file_alone_is_a_change(tmp_path: Path) -> None:
    path = in_two_files(tmp_path, 2.0)
    row = {"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [1, 1, 1, 1]}

    def answer(server: serving.Server) -> list[float]:
        said = server.ask("POST", "/v2/models/two/infer", {"inputs": [row]})
        values: list[float] = said.json["outputs"][0]["data"]
        return values

    with serving.serving_settings(serving.settings_of([serving.served("two", path)])) as server:
        assert "no digest can say that it is the right one" in server.log()
        assert answer(server) == [2, 2, 2, 2]
        before = path.read_bytes()
        in_two_files(tmp_path, 3.0)
        assert path.read_bytes() == before
        path.touch()  # below, only the other file is newer
        server.process.send_signal(signal.SIGHUP)
        until(lambda: answer(server) == [3, 3, 3, 3])
        replaced = tmp_path / "new"
        replaced.write_bytes(np.full(4, 4, np.float32).tobytes())
        replaced.rename(tmp_path / "model.onnx.data")
        server.process.send_signal(signal.SIGHUP)
        until(lambda: answer(server) == [4, 4, 4, 4])
        path.write_bytes(PLACES["an initializer"].SerializeToString().replace(b"weights.bin", b"../ghts.bin"))
        server.process.send_signal(signal.SIGHUP)
        until(lambda: "may only name a file of its own folder" in server.log())
        assert answer(server) == [4, 4, 4, 4]


def until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
