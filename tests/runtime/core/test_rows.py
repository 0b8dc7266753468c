"""Whether requests share a batch: what is declared, what a graph shows, what rows alone and together show."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelway_runtime.serving import row_proof
from modelway_runtime.serving.backends import onnx_backend
from modelway_runtime.serving.backends.base import LoadError, Model, Reading
from modelway_runtime.serving.backends.onnx_rows import graph
from modelway_runtime.serving.rows import Rows, RowsOfModels
from modelway_runtime.serving.values import Array, Arrays
from modelway_runtime.settings import Batching, Device, TensorSpec
from tests.runtime.core.onnx_models import served
from tests.support import row_graphs, serving

CPU = Device(providers=("cpu",), allow_cpu=False, threads=1, options={})
ONE_BY_ONE = Batching(max_rows=1, max_delay_ms=0, preferred_rows=())


def loaded(folder: Path, model: onnx.ModelProto, **changes: Any) -> Model:
    path = folder / "model.onnx"
    onnx.save(model, path)
    return onnx_backend.load(path, served(path, **changes), CPU)


def decided(folder: Path, model: onnx.ModelProto, **changes: Any) -> Rows:
    return RowsOfModels().decide(served(folder / "model.onnx", **changes), loaded(folder, model, **changes))


class Fake:
    """Arithmetic of numpy that a graph does not show."""

    provider, on_gpu, engine = "numpy", False, "numpy"
    reading = Reading(None, True)

    def __init__(self, compute: Any, datatype: Any = "FP32", inputs: tuple[str, ...] = ("x",)) -> None:
        self.inputs = {name: TensorSpec(datatype=datatype, shape=(-1, 4)) for name in inputs}
        self.outputs = {"y": TensorSpec(datatype=datatype, shape=(-1, 4))}
        self.runs = 0
        self._compute = compute

    def run(self, inputs: Arrays, wanted: tuple[str, ...]) -> Arrays:
        self.runs += 1
        return {"y": self._compute(*inputs.values())}

    def close(self) -> None:
        pass


def doubt_of(model: Fake) -> str | None:
    return row_proof.find_doubt(model, model.inputs, ("y",), 32)


# What a graph shows


@pytest.mark.parametrize("name", row_graphs.APART)
def test_steps_that_keep_rows_apart_are_understood(tmp_path: Path, name: str) -> None:
    model = loaded(tmp_path, row_graphs.chain([row_graphs.APART[name]]))
    assert model.reading.doubt is None
    assert model.reading.steady
    assert row_proof.find_doubt(model, model.inputs, ("y",), 32) is None


@pytest.mark.parametrize("name", row_graphs.MIXING)
def test_steps_that_mix_rows_are_doubted(tmp_path: Path, name: str) -> None:
    for steps in ([name], ["dense", name], [name, "product"]):
        every = {**row_graphs.APART, **row_graphs.MIXING}
        model = loaded(tmp_path, row_graphs.chain([every[step] for step in steps]))
        assert model.reading.doubt is not None, steps


@pytest.mark.parametrize("name", sorted(set(row_graphs.MIXING) - {"if-between"}))
def test_steps_that_mix_rows_show_in_their_answers(tmp_path: Path, name: str) -> None:
    """Without the graph, too; only what mixes in a narrow range of numbers escapes this."""
    model = loaded(tmp_path, row_graphs.chain([row_graphs.MIXING[name]]))
    assert row_proof.find_doubt(model, model.inputs, ("y",), 32) is not None


@pytest.mark.parametrize("name", ["looped", "branched", "selected", "not-zero", "suppressed", "numbered"])
def test_work_that_numbers_decide_is_not_steady(tmp_path: Path, name: str) -> None:
    assert not loaded(tmp_path, row_graphs.chain([row_graphs.MIXING[name]])).reading.steady


@settings(deadline=None)
@given(data=st.binary(max_size=400), cut=st.integers(0, 10**6), place=st.integers(0, 10**6))
def test_a_file_that_is_no_graph_is_said_to_be_none(
    tmp_path_factory: pytest.TempPathFactory, data: bytes, cut: int, place: int
) -> None:
    whole = row_graphs.chain([row_graphs.APART["heads"]]).SerializeToString()
    broken = whole[: cut % len(whole)] + data + whole[place % len(whole) :]
    path = tmp_path_factory.getbasetemp() / "broken.onnx"
    path.write_bytes(broken)
    try:
        read = graph.read(path)
    except graph.NotReadable:
        return
    assert isinstance(read.opset, int)


# What rows show


@pytest.mark.parametrize(
    "compute",
    [
        lambda x: x - x.mean(0),
        lambda x: x * (1 if x.max() < 50 else 2),
        lambda x: x / len(x),
        lambda x: np.round(x / np.abs(x).max() * 127),
        lambda x: np.sort(x, 0),
        lambda x: x[::-1],
        lambda x: x + np.arange(len(x))[:, None],
        lambda x: x[: len(x) - 1] if len(x) > 3 else x,
        lambda x: np.concatenate([x, x]),
        lambda x: x.sum(),
        lambda x: x + np.random.default_rng().random(),
        lambda x: x * (2 if np.isnan(x).any() else 1),
        lambda x: x * (2 if len(x) > 8 else 1),
    ],
)
def test_rows_that_change_each_other_are_found(compute: Any) -> None:
    assert doubt_of(Fake(compute)) is not None


@pytest.mark.parametrize(
    ("datatype", "compute"),
    [
        ("FP32", lambda x: x * (1 + 1e-6 * len(x))),
        ("FP16", lambda x: x * np.float16(1 + 1e-3 * (len(x) % 2))),
        ("INT64", lambda x: x * 2),
        ("INT8", lambda x: x),
        ("BOOL", lambda x: ~x),
        ("BYTES", lambda x: x),
    ],
)
def test_differences_within_the_datatypes_tolerance_are_none(datatype: str, compute: Any) -> None:
    assert doubt_of(Fake(compute, datatype)) is None


def test_an_integer_has_no_tolerance() -> None:
    assert doubt_of(Fake(lambda x: x + (len(x) > 1), "INT64")) is not None


def test_a_table_of_two_entries_gets_numbers_that_it_has() -> None:
    def looked_up(x: Array) -> Array:
        if x.min() < 0 or x.max() > 1:
            raise IndexError(x)
        return x

    assert doubt_of(Fake(looked_up, "INT64")) is None


def test_a_model_that_refuses_what_is_made_up_is_not_proved() -> None:
    def refuse(_: Array) -> Array:
        raise ValueError("no")

    assert "fails on inputs that are made up" in (doubt_of(Fake(refuse)) or "")


def test_inputs_of_different_lengths_have_no_rows_in_common() -> None:
    assert doubt_of(Fake(lambda x, y: x + y, inputs=("x", "y"))) is None
    assert "'y'" in (doubt_of(Fake(lambda x, y: x, inputs=("x", "y"))) or "")


# What is decided


def test_what_is_proved_is_shared(tmp_path: Path) -> None:
    assert decided(tmp_path, serving.mlp()).shared


def test_what_is_not_proved_is_said_once_with_the_way_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        rows = decided(tmp_path, row_graphs.chain([row_graphs.MIXING["mean"]]))
    assert not rows.shared
    (record,) = caplog.records
    assert "not batched: the operator ReduceMean works along the rows" in record.message
    assert "Declare `rows`" in record.message


def test_a_server_that_never_batches_needs_no_rows_alone_and_together(tmp_path: Path) -> None:
    fake = Fake(lambda x: x)
    spec = served(tmp_path, batching=ONE_BY_ONE)
    assert RowsOfModels().decide(spec, fake).shared
    assert fake.runs == 0


def test_a_declaration_is_trusted(tmp_path: Path) -> None:
    mixing = row_graphs.chain([row_graphs.MIXING["mean"]])
    assert decided(tmp_path, mixing, rows="first").shared
    assert decided(tmp_path, mixing, rows="rows").shared
    assert not decided(tmp_path, serving.mlp(), rows="none").shared


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        (serving.mlp(), {"rows": "batch"}, "the input 'input' is 'rows'"),
        (serving.without_rows(), {"rows": "first"}, "'x' is \\[2, 3\\], without a first dimension"),
        (
            serving.mlp(),
            {"rows": "first", "inputs": {"input": TensorSpec(datatype="FP32", shape=(1, 64))}},
            "'input' is \\[1, 64\\]",
        ),
    ],
)
def test_a_declaration_that_does_not_fit_the_weights_is_refused(
    tmp_path: Path, model: onnx.ModelProto, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(LoadError, match=words):
        decided(tmp_path, model, **changes)


def test_a_proof_is_kept_by_digest_and_engine(tmp_path: Path) -> None:
    fake, kept = Fake(lambda x: x), RowsOfModels()
    pinned = served(tmp_path, digest="sha256:" + hashlib.sha256(b"").hexdigest())
    assert kept.decide(pinned, fake).shared
    runs = fake.runs
    assert kept.decide(pinned, fake).shared
    assert fake.runs == runs
    fake.engine = "numpy of tomorrow"
    assert kept.decide(pinned, fake).shared
    assert fake.runs == 2 * runs
    for _ in range(2):  # without a digest nobody knows that these are the same weights
        before = fake.runs
        assert kept.decide(served(tmp_path), fake).shared
        assert fake.runs > before
