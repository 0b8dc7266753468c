"""Architectures that an installed package offers."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modelway_runtime.serving.backends.base import LoadError
from tests.runtime.torch.torch_helpers import load, peak_memory, served, spec, write

PACKAGE = '''
import torch
from torch import nn

class Ranker(nn.Module):
    """Two inputs; keeps tensors that are no part of its state."""

    def __init__(self, width, gives="dict"):
        super().__init__()
        self.gives = gives
        self.item = nn.Linear(width, 1, bias=False)
        self.table = torch.arange(3.0)
        self.register_buffer("shift", torch.full((1,), 0.5), persistent=False)

    def forward(self, item, user):
        score = self.item(item) + self.table[2] * self.shift
        user.add_(1.0)
        if self.gives == "dict":
            return {"user": user, "score": score, "more": score}
        return {"tuple": (score, user), "one": score, "text": "score"}[self.gives]

def broken():
    raise KeyError("no such width")

def nothing():
    return None
'''
ENTRY_POINTS = """[modelway_runtime.architectures]
ranker = shop_architectures:Ranker
broken = shop_architectures:broken
nothing = shop_architectures:nothing
absent = shop_no_such_module:Ranker
"""
INPUTS = {"user": spec("FP32", -1, 1), "item": spec("FP32", -1, 2)}
OUTPUTS = {"score": spec("FP32", -1, 1), "user": spec("FP32", -1, 1)}
WEIGHTS = {"item.weight": torch.tensor([[2.0, 3.0]])}


@pytest.fixture(autouse=True)
def _package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package as pip installs it."""
    site = tmp_path / "site"
    information = site / "shop_architectures-1.0.dist-info"
    information.mkdir(parents=True)
    (site / "shop_architectures.py").write_text(PACKAGE)
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-architectures\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(site)
    yield
    sys.modules.pop("shop_architectures", None)


def ranker(tmp_path: Path, **arguments: Any) -> Path:
    return write(tmp_path / "m.safetensors", {"factory": "ranker", "arguments": arguments}, WEIGHTS)


@pytest.mark.parametrize("gives", ["dict", "tuple"])
def test_several_inputs_and_outputs(tmp_path: Path, gives: str) -> None:
    model = load(ranker(tmp_path, width=2, gives=gives), served(INPUTS, OUTPUTS))
    user = np.full((2, 1), 7, np.float32)
    given = {"item": np.array([[1, 1], [10, 1]], np.float32), "user": user}
    answer = model.run(given, ("user", "score"))
    np.testing.assert_allclose(answer["score"], [[6.0], [24.0]])
    np.testing.assert_allclose(answer["user"], [[8.0], [8.0]])
    assert model.run(given, ("score",)).keys() == {"score"}
    assert (user == 7).all(), "the caller's tensor was written to"


def test_one_output(tmp_path: Path) -> None:
    model = load(ranker(tmp_path, width=2, gives="one"), served(INPUTS, {"score": OUTPUTS["score"]}))
    given = {"item": np.ones((1, 2), np.float32), "user": np.ones((1, 1), np.float32)}
    np.testing.assert_allclose(model.run(given, ())["score"], [[6.0]])


@pytest.mark.parametrize(
    ("gives", "outputs", "says"),
    [
        ("one", OUTPUTS, "returned 1 tensors, 2 are declared"),
        ("text", OUTPUTS, "returned str, not tensors"),
        ("dict", {"rank": OUTPUTS["score"]}, "returned no tensor `rank`"),
    ],
)
def test_other_outputs_than_declared(tmp_path: Path, gives: str, outputs: dict, says: str) -> None:
    model = load(ranker(tmp_path, width=2, gives=gives), served(INPUTS, outputs))
    given = {"item": np.ones((1, 2), np.float32), "user": np.ones((1, 1), np.float32)}
    with pytest.raises((TypeError, ValueError), match=says):
        model.run(given, ())


@pytest.mark.parametrize(
    ("declaration", "says"),
    [
        ({"factory": "ranked"}, "factory 'ranked': .*offered: absent, broken, nothing, ranker"),
        ({"factory": "broken"}, "the factory failed: KeyError: 'no such width'"),
        ({"factory": "nothing"}, r"the factory made a NoneType, not a torch\.nn\.Module"),
        ({"factory": "absent"}, "factory 'absent': cannot be imported: ModuleNotFoundError"),
        ({"factory": "ranker"}, "the factory failed: TypeError: .*'width'"),
        (
            {"factory": "ranker", "arguments": {"width": 3}},
            r"the file holds float32 \[1, 2\], the layers need",
        ),
        ({"factory": "ranker", "arguments": {"width": 2**30}}, r"the layers need float32 \[1, 1073741824\]"),
    ],
)
def test_refused(tmp_path: Path, declaration: dict, says: str) -> None:
    load(ranker(tmp_path, width=2), served(INPUTS, OUTPUTS))  # what torch loads at its first factory
    path = write(tmp_path / "refused.safetensors", declaration, WEIGHTS)
    before = peak_memory()
    with pytest.raises(LoadError, match=says):
        load(path, served(INPUTS, OUTPUTS))
    assert peak_memory() - before < 64 * 2**20
