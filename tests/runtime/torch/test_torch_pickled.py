"""Exported programs and TorchScript need the operator's word; a pickle is never loaded."""

from __future__ import annotations

import gc
import pickle
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from modelway_runtime.serving.backends.base import LoadError
from modelway_runtime.settings import TensorSpec
from tests.runtime.torch.torch_helpers import DIGEST, load, served, spec

# TorchScript is deprecated; those who have such files are served all the same.
pytestmark = pytest.mark.filterwarnings(r"ignore:`torch\.jit\.\w+` is deprecated:DeprecationWarning")

X, Y = {"x": spec("FP32", -1, 4)}, {"y": spec("FP32", -1, 3)}
GIVEN = np.random.default_rng(0).random((5, 4), np.float32)
ROWS = {0: torch.export.Dim.DYNAMIC}


class Pair(nn.Module):
    def __init__(self, gives: str) -> None:
        super().__init__()
        self.gives = gives
        self.linear = nn.Linear(4, 4)

    def forward(self, a: torch.Tensor, *, b: torch.Tensor) -> Any:
        total = self.linear(a.relu_()) - b.to(torch.float32)
        if self.gives == "dict":
            return {"total": total, "b": b}
        if self.gives == "constant":
            return total, 3
        return total, b


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.Dropout(), nn.Sigmoid())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        answer: torch.Tensor = self.layers(x.mul_(2.0))
        return answer


def network() -> nn.Module:
    return Network().eval()


def exported(path: Path, module: nn.Module) -> Path:
    program = torch.export.export(module, (torch.ones(2, 4),), dynamic_shapes=(ROWS,))
    torch.export.save(program, path)
    return path


def exported_pair(path: Path, gives: str) -> Path:
    program = torch.export.export(
        Pair(gives).eval(),
        (torch.ones(2, 4),),
        {"b": torch.ones(2, 4, dtype=torch.int32)},
        dynamic_shapes={"a": ROWS, "b": ROWS},
    )
    torch.export.save(program, path)
    return path


def script(path: Path, module: nn.Module) -> Path:
    torch.jit.script(module).save(path)
    return path


def answer(module: nn.Module) -> np.ndarray:
    with torch.inference_mode():
        wanted: np.ndarray = module.eval()(torch.tensor(GIVEN)).numpy()
    return wanted


@pytest.mark.parametrize(
    ("write", "name"), [(exported, "m.pt2"), (script, "m.pt"), (script, "m.pth")], ids=["pt2", "pt", "pth"]
)
def test_the_opt_in(tmp_path: Path, write: Callable[[Path, nn.Module], Path], name: str) -> None:
    module = network()
    path = write(tmp_path / name, module)
    with pytest.raises(LoadError, match=r"--trust-pickled-weights, or write safetensors instead: .*\.save\("):
        load(path, served(X, Y, DIGEST), trusted=False)
    with pytest.raises(LoadError, match="is loaded: pin the file with `digest`, or write safetensors"):
        load(path, served(X, Y, None), trusted=True)
    with pytest.raises(LoadError, match="--trust-pickled-weights and pin the file with `digest`"):
        load(path, served(X, Y, None), trusted=False)
    model = load(path, served(X, Y, DIGEST), trusted=True)
    given = GIVEN.copy()
    np.testing.assert_allclose(model.run({"x": given}, ("y",))["y"], answer(module), atol=1e-6)
    np.testing.assert_array_equal(given, GIVEN, "the caller's tensor was written to")
    assert (model.inputs, model.outputs, model.provider) == (X, Y, "cpu")


def test_torch_script_without_names(tmp_path: Path) -> None:
    path = script(tmp_path / "m.pt", network())
    with pytest.raises(LoadError, match="the inputs are named neither in the file nor in the settings"):
        load(path, served({}, Y, DIGEST), trusted=True)
    with pytest.raises(LoadError, match="the outputs are named neither in the file nor in the settings"):
        load(path, served(X, {}, DIGEST), trusted=True)


def test_torch_script_takes_inputs_in_the_order_of_the_settings(tmp_path: Path) -> None:
    class Minus(nn.Module):
        def forward(self, a: torch.Tensor, b: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return a - b, b

    path = script(tmp_path / "m.pt", Minus())
    one = spec("FP32", -1)
    model = load(path, served({"z": one, "a": one}, {"y": one, "b": one}, DIGEST), trusted=True)
    result = model.run({"a": np.ones(1, np.float32), "z": np.full(1, 5, np.float32)}, ())
    assert {name: array.tolist() for name, array in result.items()} == {"y": [4.0], "b": [1.0]}


def test_what_a_program_says_of_itself(tmp_path: Path) -> None:
    path = exported_pair(tmp_path / "m.pt2", "dict")
    model = load(path, served(digest=DIGEST), trusted=True)
    assert model.inputs == {"a": spec("FP32", -1, 4), "b": spec("INT32", -1, 4)}
    assert model.outputs == {"total": spec("FP32", -1, 4), "b": spec("INT32", -1, 4)}
    counts = np.arange(20, dtype=np.int32).reshape(5, 4)
    given = GIVEN.copy()
    result = model.run({"b": counts, "a": given}, ("b", "total"))
    np.testing.assert_array_equal(result["b"], counts)
    np.testing.assert_array_equal(given, GIVEN)
    assert model.run({"b": counts, "a": GIVEN}, ("total",)).keys() == {"total"}
    with torch.inference_mode():
        linear = torch.export.load(path).module()(torch.tensor(GIVEN), b=torch.tensor(counts))["total"]
    np.testing.assert_allclose(result["total"], linear.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    ("gives", "inputs", "outputs", "says"),
    [
        ("dict", X, {}, "the inputs are a, b in the file, but x in the settings"),
        ("dict", {}, Y, "the outputs are total, b in the file, but y in the settings"),
        ("tuple", {}, Y, "the program returns 2 tensors, the settings name y"),
        ("tuple", {}, {"s": spec("FP32", -1, 4), "t": spec("INT64", -1, 4)}, r"`t` is INT32 .* but INT64"),
        (
            "tuple",
            {"a": spec("FP32", -1, 4), "b": spec("INT32", -1, 5)},
            {},
            r"`b` is INT32 \[-1, 4\] in the file",
        ),
        ("constant", {}, {}, "it takes or returns 3, which is no tensor"),
    ],
)
def test_a_program_and_settings_that_disagree(
    tmp_path: Path, gives: str, inputs: dict[str, TensorSpec], outputs: dict[str, TensorSpec], says: str
) -> None:
    path = exported_pair(tmp_path / "m.pt2", gives)
    with pytest.raises(LoadError, match=says):
        load(path, served(inputs, outputs, DIGEST), trusted=True)


def test_outputs_without_names_are_named_by_the_settings(tmp_path: Path) -> None:
    path = exported_pair(tmp_path / "m.pt2", "tuple")
    outputs = {"z": spec("FP32", -1, 4), "a": spec("INT32", -1, 4)}
    model = load(path, served({}, outputs, DIGEST), trusted=True)
    counts = np.ones((5, 4), np.int32)
    np.testing.assert_array_equal(model.run({"a": GIVEN, "b": counts}, ())["a"], counts)


def test_closing_frees_the_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modules = []
    kept = torch.export.ExportedProgram.module

    def module(self: torch.export.ExportedProgram) -> nn.Module:
        made = kept(self)
        modules.append(weakref.ref(next(made.parameters())))
        return made

    monkeypatch.setattr(torch.export.ExportedProgram, "module", module)
    model = load(exported(tmp_path / "m.pt2", network()), served(X, Y, DIGEST), trusted=True)
    gc.disable()
    try:
        assert modules[0]() is not None
        model.close()
        assert modules[0]() is None
    finally:
        gc.enable()


class Evil:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def archive(path: Path, data: bytes, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name in names:
            file.writestr(f"m/{name}", data)


def evil_files(folder: Path, mark: Path) -> dict[str, Path]:
    data = pickle.dumps(Evil(mark))
    files = {
        name: folder / name
        for name in ("raw.pt", "raw.pth", "raw.pt2", "raw.safetensors", "saved.pt", "saved.pt2", "old.pt")
    }
    for name in ("raw.pt", "raw.pth", "raw.pt2", "raw.safetensors"):
        files[name].write_bytes(data)
    for name in ("saved.pt", "saved.pt2"):
        torch.save({"weight": Evil(mark)}, files[name])
    torch.save({"weight": Evil(mark)}, files["old.pt"], _use_new_zipfile_serialization=False)
    for name in ("script.pt", "script.pt2"):
        files[name] = folder / name
        archive(files[name], data, "data.pkl", "constants.pkl", "code/__torch__.py", "version", "byteorder")
    files["program.pt2"] = folder / "program.pt2"
    archive(files["program.pt2"], data, "models/model.json", "data/sample_inputs/model.pt", "archive_format")
    return files


def test_nothing_is_unpickled_without_the_opt_in(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    for path in evil_files(tmp_path, mark).values():
        for trusted, digest in ((False, DIGEST), (False, None), (True, None)):
            with pytest.raises(LoadError, match=rf"^{path.name}: "):
                load(path, served(X, Y, digest), trusted=trusted)
            assert not mark.exists(), (path.name, trusted, digest)
    pickle.loads(pickle.dumps(Evil(mark)))
    assert mark.exists(), "the file would not have done any harm"


@pytest.mark.parametrize("name", ["raw.pt", "raw.pth", "saved.pt", "old.pt", "raw.safetensors"])
def test_a_pickle_is_never_loaded(tmp_path: Path, name: str) -> None:
    mark = tmp_path / "mark"
    path = evil_files(tmp_path, mark)[name]
    with pytest.raises(LoadError) as caught:
        load(path, served(X, Y, DIGEST), trusted=True)
    assert not mark.exists()
    if path.suffix != ".safetensors":
        assert "a pickle, not TorchScript" in str(caught.value)
        assert "architecture.save(model, Path(" in str(caught.value)


@pytest.mark.parametrize("name", ["m.pt", "m.pt2"])
def test_broken_files(tmp_path: Path, name: str) -> None:
    archive(tmp_path / name, b"junk", "constants.pkl", "code/__torch__.py", "data.pkl", "version")
    with pytest.raises(LoadError, match=rf"^{name}: torch cannot load it: "):
        load(tmp_path / name, served(X, Y, DIGEST), trusted=True)


def test_other_files(tmp_path: Path) -> None:
    (tmp_path / "m.bin").write_bytes(b"")
    with pytest.raises(LoadError, match=r"torch weights are \.safetensors, \.pt2"):
        load(tmp_path / "m.bin", served(X, Y, DIGEST), trusted=True)
