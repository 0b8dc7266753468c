"""Networks declared in a safetensors file answer as torch itself does."""

from __future__ import annotations

import re
import subprocess
import sys
from collections import OrderedDict
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors
import torch
from torch import nn

from modelway_runtime.serving import tensors
from modelway_runtime.serving.backends import architecture
from modelway_runtime.serving.backends.architecture import Residual
from modelway_runtime.serving.backends.base import LoadError
from tests.runtime.torch.torch_helpers import device, load, served, spec, write

ROOT = Path(__file__).resolve().parents[3]
X, Y = {"x": spec("FP32", -1, 8)}, {"y": spec("FP32", -1, 3)}


def mlp() -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(8, 16), nn.LayerNorm(16), nn.GELU(), Residual(nn.Linear(16, 16), nn.PReLU()),
        nn.Sequential(nn.Dropout(0.9), nn.Linear(16, 3, bias=False)), nn.Softmax(dim=-1),
    )  # fmt: skip


def cnn() -> nn.Sequential:
    """Every kind of layer that a VGG with batch normalisation has, and a residual block."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2, 2),
        Residual(nn.Conv2d(8, 8, 3, padding="same", groups=2), nn.BatchNorm2d(8, momentum=None), nn.SiLU()),
        nn.AdaptiveAvgPool2d((3, None)), nn.Flatten(), nn.Dropout(), nn.Linear(8 * 3 * 5, 7),
    )  # fmt: skip
    with torch.no_grad():
        network(torch.randn(16, 3, 10, 10) * 3 + 1)  # moves the running statistics
    return network


def expected(network: nn.Module, given: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        answer: np.ndarray = network.eval()(torch.tensor(given)).numpy()
    return answer


def read_only(array: np.ndarray) -> np.ndarray:
    return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)


@pytest.mark.parametrize("rows", [1, 2, 5, 0])
def test_mlp(tmp_path: Path, rows: int) -> None:
    network = mlp()
    architecture.save(network, tmp_path / "m.safetensors", X, Y)
    model = load(tmp_path / "m.safetensors")
    given = read_only(np.random.default_rng(rows).random((rows, 8), np.float32))
    answer = model.run({"x": given}, ("y",))["y"]
    np.testing.assert_allclose(answer, expected(network, given), atol=1e-6)
    assert answer.shape == (rows, 3)
    assert answer.flags.c_contiguous
    assert (model.inputs, model.outputs, model.provider, model.on_gpu) == (X, Y, "cpu", False)


def test_cnn_with_batch_norm_and_residual(tmp_path: Path) -> None:
    network = cnn()
    path = tmp_path / "m.safetensors"
    architecture.save(network, path, {"image": spec("FP32", -1, 3, 10, 10)}, {"class": spec("FP32", -1, 7)})
    given = np.random.default_rng(1).random((4, 3, 10, 10), np.float32)
    answer = load(path).run({"image": given}, ())["class"]
    np.testing.assert_allclose(answer, expected(network, given), atol=1e-6)
    assert np.abs(answer).max() > 1e-3


def test_every_layer_is_written_and_read_again(tmp_path: Path) -> None:
    """One of each kind, none with its defaults."""
    every = [
        nn.Linear(4, 3, bias=False), nn.Embedding(9, 4, padding_idx=2),
        nn.Conv1d(4, 8, 3, 2, 1, 2, 2, False, "reflect"), nn.Conv2d(4, 8, (3, 1), (2, 1), 1, 2, 2, False),
        nn.Conv3d(4, 8, 2, padding_mode="circular"), nn.BatchNorm1d(4, 0.1, 0.2, False, True),
        nn.BatchNorm2d(4, 0.1, None, True, False), nn.BatchNorm3d(4, 0.1),
        nn.LayerNorm([4, 3], 0.1, bias=False), nn.GroupNorm(2, 4, 0.1, False),
        nn.MaxPool1d(3, 2, 1, 2, ceil_mode=True), nn.MaxPool2d((3, 2), 2, 1, 2, ceil_mode=True),
        nn.AvgPool1d(3, 2, 1, True, False), nn.AvgPool2d((3, 2), 2, 1, True, False),
        nn.AdaptiveAvgPool1d(3), nn.AdaptiveAvgPool2d((None, 3)), nn.AdaptiveMaxPool1d(3), nn.AdaptiveMaxPool2d(2),
        nn.Flatten(0, 1), nn.Unflatten(1, (2, 2)), nn.Identity(), nn.Dropout(0.1), nn.Dropout1d(0.1),
        nn.Dropout2d(0.1), nn.ReLU(), nn.ReLU6(), nn.LeakyReLU(0.3), nn.PReLU(4, 0.1), nn.ELU(2.0),
        nn.GELU("tanh"), nn.SiLU(), nn.Hardsigmoid(), nn.Hardswish(), nn.Sigmoid(), nn.Softplus(2.0, 9.0),
        nn.Tanh(), nn.Softmax(-1), nn.LogSoftmax(-2),
    ]  # fmt: skip
    assert {type(layer).__name__ for layer in every} == set(architecture.LAYERS)
    network = nn.Sequential(*every).to(torch.float64)
    path = tmp_path / "m.safetensors"
    architecture.save(network, path, X, Y)
    _, again = architecture.read(path)
    assert repr(again) == repr(network)
    state = again.state_dict()
    assert list(state) == list(network.state_dict())
    for name, tensor in network.state_dict().items():
        assert state[name].dtype == tensor.dtype
        assert torch.equal(state[name], tensor), name


@pytest.mark.parametrize("datatype", sorted(set(tensors.DTYPES) - {"BYTES"}))
@pytest.mark.parametrize("kind", ["read only", "writable", "strided", "reversed", "unaligned", "scalar"])
def test_every_datatype_passes_unchanged(tmp_path: Path, datatype: str, kind: str) -> None:
    path = write(
        tmp_path / "m.safetensors",
        {
            "layers": [["Identity", {}]],
            "inputs": {"x": {"datatype": datatype, "shape": [-1, 2]}},
            "outputs": {"y": {"datatype": datatype, "shape": [-1, 2]}},
        },
    )
    dtype = tensors.DTYPES[datatype]
    whole = (
        np.array([[0, 1], [1, 0], [1, 1], [0, 0]]) if datatype == "BOOL" else np.arange(1, 9).reshape(4, 2)
    )
    array = whole.astype(dtype)
    if kind == "read only":
        array = read_only(array)
    elif kind == "strided":
        array = array[::2]
    elif kind == "reversed":
        array = array[::-1]
    elif kind == "unaligned":
        array = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(dtype).reshape(4, 2)
    elif kind == "scalar":
        array = array[2:3, 1].reshape(())
    answer = load(path).run({"x": array}, ("y",))["y"]
    assert answer.dtype == dtype
    assert answer.shape == array.shape
    assert answer.tobytes() == array.tobytes()
    assert answer.flags.c_contiguous
    assert not np.shares_memory(answer, array)


@pytest.mark.parametrize(
    ("dtype", "numpy_dtype"), [(torch.bfloat16, ml_dtypes.bfloat16), (torch.float16, np.float16)]
)
def test_weights_keep_their_datatype(tmp_path: Path, dtype: torch.dtype, numpy_dtype: type) -> None:
    network = nn.Sequential(nn.Linear(8, 3), nn.BatchNorm1d(3)).to(dtype).eval()
    datatype = "BF16" if dtype is torch.bfloat16 else "FP16"
    path = tmp_path / "m.safetensors"
    architecture.save(network, path, {"x": spec(datatype, -1, 8)}, {"y": spec(datatype, -1, 3)})
    given = np.random.default_rng(2).random((5, 8)).astype(numpy_dtype)
    answer = load(path).run({"x": given}, ("y",))["y"]
    assert answer.dtype == np.dtype(numpy_dtype)
    with torch.inference_mode():
        wanted = network(torch.tensor(given.astype(np.float32)).to(dtype)).float().numpy()
    np.testing.assert_array_equal(answer.astype(np.float32), wanted)


def test_settings_may_fix_a_size_and_name_the_tensors(tmp_path: Path) -> None:
    network = mlp()
    path = tmp_path / "m.safetensors"
    architecture.save(network, path, {}, {})
    fixed = served({"x": spec("FP32", 2, 8)}, {"score": spec("FP32", 2, 3)})
    assert load(path, fixed).run({"x": np.ones((2, 8), np.float32)}, ()).keys() == {"score"}
    with pytest.raises(LoadError, match="the inputs are named neither in the file nor in the settings"):
        load(path)
    architecture.save(network, path, X, Y)
    assert load(path, served({"x": spec("FP32", 2, 8)}, {"y": spec("FP32", 2, 3)})).inputs["x"].shape == (
        2,
        8,
    )


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"features": spec("FP32", -1, 8)}, "the inputs are x in the file, but features in the settings"),
        (
            {"x": spec("FP64", -1, 8)},
            r"`x` is FP32 \[-1, 8\] in the file, but FP64 \[-1, 8\] in the settings",
        ),
        ({"x": spec("FP32", -1, 9)}, r"`x` is FP32 \[-1, 8\] in the file, but FP32 \[-1, 9\]"),
        ({"x": spec("FP32", -1, -1)}, r"`x` is FP32 \[-1, 8\] in the file, but FP32 \[-1, -1\]"),
        ({"x": spec("FP32", 8)}, r"`x` is FP32 \[-1, 8\] in the file, but FP32 \[8\]"),
    ],
)
def test_settings_that_disagree(tmp_path: Path, inputs: dict, says: str) -> None:
    architecture.save(mlp(), tmp_path / "m.safetensors", X, Y)
    with pytest.raises(LoadError, match=says):
        load(tmp_path / "m.safetensors", served(inputs, Y))


def test_text_is_refused(tmp_path: Path) -> None:
    architecture.save(nn.Sequential(nn.Identity()), tmp_path / "m.safetensors", {"x": spec("BYTES", -1)}, Y)
    with pytest.raises(LoadError, match="`x` is BYTES: torch has no tensors of text"):
        load(tmp_path / "m.safetensors")


def test_several_threads_at_once(tmp_path: Path) -> None:
    network = mlp()
    architecture.save(network, tmp_path / "m.safetensors", X, Y)
    model = load(tmp_path / "m.safetensors")
    given = [np.random.default_rng(seed).random((seed % 7, 8), np.float32) for seed in range(200)]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda array: model.run({"x": array}, ("y",))["y"], given))
    for array, answer in zip(given, answers, strict=True):
        np.testing.assert_allclose(answer, expected(network, array), atol=1e-6)


def test_closed(tmp_path: Path) -> None:
    architecture.save(mlp(), tmp_path / "m.safetensors", X, Y)
    model = load(tmp_path / "m.safetensors")
    model.close()
    with pytest.raises(RuntimeError, match="closed"):
        model.run({"x": np.ones((1, 8), np.float32)}, ())


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
def test_threads_hold_in_every_thread(tmp_path: Path) -> None:
    architecture.save(mlp(), tmp_path / "m.safetensors", X, Y)
    path = tmp_path / "m.safetensors"
    load(path, on=device(threads=3))
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(torch.get_num_threads).result() == 3
    load(path, on=device(threads=0))
    assert torch.get_num_threads() == 3


def test_providers(tmp_path: Path) -> None:
    architecture.save(mlp(), tmp_path / "m.safetensors", X, Y)
    path = tmp_path / "m.safetensors"
    assert load(path, on=device("cpu", "cuda")).provider == "cpu"
    assert load(path, on=device("tensorrt", "cpu")).provider == "cpu"
    assert load(path, on=device("tensorrt", allow_cpu=True)).provider == "cpu"
    with pytest.raises(LoadError, match="torch cannot use tensorrt here: it knows cuda and cpu"):
        load(path, on=device("tensorrt"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_no_gpu(tmp_path: Path) -> None:
    architecture.save(mlp(), tmp_path / "m.safetensors", X, Y)
    path = tmp_path / "m.safetensors"
    with pytest.raises(LoadError, match=r"cannot use cuda here.* sees 0 GPUs\. Give the pod a GPU"):
        load(path, on=device("cuda"))
    assert load(path, on=device("cuda", "cpu")).provider == "cpu"
    assert load(path, on=device("cuda", allow_cpu=True)).provider == "cpu"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is here")
def test_gpu(tmp_path: Path) -> None:
    network = mlp()
    architecture.save(network, tmp_path / "m.safetensors", X, Y)
    model = load(tmp_path / "m.safetensors", on=device("cuda", "cpu"))
    assert (model.provider, model.on_gpu) == ("cuda", True)
    given = [read_only(np.random.default_rng(seed).random((seed % 7, 8), np.float32)) for seed in range(50)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda array: model.run({"x": array}, ("y",))["y"], given))
    for array, answer in zip(given, answers, strict=True):
        np.testing.assert_allclose(answer, expected(network, array), atol=1e-5)
    model.close()


def test_names_of_a_sequence_and_layers_used_twice(tmp_path: Path) -> None:
    twice = nn.Linear(8, 8)
    network = nn.Sequential(OrderedDict(first=twice, act=nn.ReLU(), again=twice, last=nn.Linear(8, 3)))
    architecture.save(network, tmp_path / "m.safetensors", X, Y)
    with safetensors.safe_open(tmp_path / "m.safetensors", "pt") as file:
        assert {"0.weight", "2.weight", "3.weight"} < set(file.keys())
    given = np.random.default_rng(3).random((5, 8), np.float32)
    answer = load(tmp_path / "m.safetensors").run({"x": given}, ())["y"]
    np.testing.assert_allclose(answer, expected(network, given), atol=1e-6)


class Doubled(nn.Linear):
    pass


@pytest.mark.parametrize(
    ("layer", "says"),
    [
        (Doubled(8, 3), "Doubled is no layer that a declaration can name: use a factory"),
        (nn.LSTM(8, 3), "LSTM is no layer"),
        (nn.Embedding(8, 3, max_norm=1.0), "a setting that a declaration cannot say"),
        (nn.MaxPool2d(2, return_indices=True), "a setting that a declaration cannot say"),
        (nn.utils.parametrizations.weight_norm(nn.Linear(8, 3)), "ParametrizedLinear is no layer"),
        (nn.Conv1d(1, 1, 2000), "cannot be declared: Conv1d: `kernel_size`"),
    ],
)
def test_what_cannot_be_declared_is_not_written(tmp_path: Path, layer: nn.Module, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        architecture.save(nn.Sequential(layer), tmp_path / "m.safetensors", X, Y)
    assert not list(tmp_path.iterdir())


def test_a_residual_that_changes_the_shape(tmp_path: Path) -> None:
    """Torch would stretch the one column to eight."""
    architecture.save(nn.Sequential(Residual(nn.Linear(8, 1))), tmp_path / "m.safetensors", X, Y)
    model = load(tmp_path / "m.safetensors")
    with pytest.raises(ValueError, match=r"Residual: \[2, 8\] became \[2, 1\]"):
        model.run({"x": np.ones((2, 8), np.float32)}, ())


def test_the_server_starts_without_torch() -> None:
    code = (
        "import sys, modelway_runtime.settings, modelway_runtime.serving.backends.base; "
        "import modelway_runtime.serving.tensors; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT / "runtime", check=False).returncode == 0


@pytest.mark.parametrize("writable", [True, False])
def test_a_declared_network_computes_on_the_callers_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writable: bool
) -> None:
    seen = []

    def forward(self: nn.ReLU, given: torch.Tensor) -> torch.Tensor:
        seen.append(given.data_ptr())
        return torch.relu(given)

    monkeypatch.setattr(nn.ReLU, "forward", forward)
    architecture.save(nn.Sequential(nn.ReLU()), tmp_path / "m.safetensors", X, Y)
    model = load(tmp_path / "m.safetensors")
    array = np.ones((2, 8), np.float32)
    array.flags.writeable = writable
    unaligned = np.frombuffer(b"\0" + array.tobytes(), np.uint8)[1:].view(np.float32)
    model.run({"x": array}, ())
    model.run({"x": unaligned}, ())
    assert seen[0] == array.ctypes.data
    assert seen[1] % 4 == 0, "torch reads whole words"


def test_the_guide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its lines write files that are served."""
    text = (ROOT / "docs/guides/torch-weights.md").read_text("utf-8")
    code = "".join(re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL))
    monkeypatch.chdir(tmp_path)
    names: dict[str, nn.Module] = {}
    exec(code, names)
    given = np.random.default_rng(4).random((5, 64), np.float32)
    answer = load(tmp_path / "ranker.safetensors").run({"features": given}, ())["score"]
    np.testing.assert_allclose(answer, expected(names["model"], given), atol=1e-6)
    with pytest.raises(LoadError, match="factory 'two-towers': no installed package offers it"):
        load(tmp_path / "towers.safetensors")
