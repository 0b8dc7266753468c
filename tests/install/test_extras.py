"""Each command in an environment with no extra, with `detect`, with `runtime`: it works, or says what to install."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
from safetensors.numpy import save_file

from modelway.cli import cli as compiler
from modelway_runtime.cli import main as runtime
from tests.install.environments import FREE, Environment, ask, make, served, shared_folder
from tests.support import serving

EXTRAS: dict[str, tuple[str, ...]] = {"no extra": (), "detect": ("detect",), "runtime": ("runtime",)}
AT = "2026-11-21T12:00:00Z"


@pytest.fixture(params=EXTRAS)
def environment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make(shared_folder(tmp_path_factory), *EXTRAS[request.param])


@pytest.fixture
def plain(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make(shared_folder(tmp_path_factory))


@pytest.fixture
def detector(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make(shared_folder(tmp_path_factory), "detect")


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    return make(shared_folder(tmp_path_factory), "runtime")


def onnx_folder(folder: Path) -> Path:
    serving.write_model(folder / "models", "mlp", serving.mlp())
    return folder / "models"


def with_torch_weights(folder: Path) -> Path:
    models = onnx_folder(folder)
    (models / "net" / "1").mkdir(parents=True)
    save_file({"weight": np.zeros((1, 1), np.float32)}, models / "net" / "1" / "model.safetensors")
    return models


def series(folder: Path) -> Path:
    """A file of the detector: three hours, and the release in its midst."""
    rows = [
        f"2026-11-21T{10 + m // 60:02}:{m % 60:02}:00Z,{100 + m % 7},{0.2 + m % 5 / 100}" for m in range(180)
    ]
    path = folder / "series.csv"
    path.write_text("time,load,latency-p99\n" + "\n".join(rows) + "\n")
    return path


def judged(environment: Environment, folder: Path) -> subprocess.CompletedProcess[str]:
    arguments = ("--env", "prod", "--model", "ranker", "--series", str(series(folder)), "--at", AT)
    return environment.run("modelway-runtime", "detect", *arguments, "--save", "saved", cwd=folder)


def is_lacking(done: subprocess.CompletedProcess[str], extras: str) -> bool:
    """One line that says what to install, and the exit code that is documented."""
    line = rf"error: `modelway-runtime [a-z]+` needs [\w.-]+: pip install 'modelway\[{extras}\]'\n"
    return done.returncode == 2 and done.stdout == "" and re.fullmatch(line, done.stderr) is not None


def answer_of(port: int, x: Any) -> Any:
    tensor = {"name": "input", "datatype": "FP32", "shape": list(x.shape), "data": x.ravel().tolist()}
    status, answer = ask(port, "POST", "/v2/models/mlp/infer", {"inputs": [tensor]})
    assert status == 200, answer
    return answer["outputs"][0]["data"]


# Every command


@pytest.mark.parametrize(("script", "group"), [("modelway", compiler), ("modelway-runtime", runtime)])
def test_help_needs_no_extra(
    environment: Environment, tmp_path: Path, script: str, group: click.Group
) -> None:
    assert group.commands
    for arguments in ((), *((name,) for name in group.commands)):
        done = environment.run(script, *arguments, "--help", cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), arguments
        assert done.stdout.startswith("Usage: ")
    done = environment.run(script, "--version", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_compiler_needs_no_extra(environment: Environment, tmp_path: Path) -> None:
    done = {
        name: environment.run("modelway", *arguments, cwd=tmp_path)
        for name, arguments in {
            "init": ("init",),
            "compile": ("compile",),
            "check": ("check",),
            "list": ("list",),
            "explain": ("explain", "Model.spec.serving"),
            "schema": ("schema", "Model"),
            "completion": ("completion", "bash"),
        }.items()
    }
    assert set(done) == set(compiler.commands)
    for name, result in done.items():
        assert result.returncode == 0, (name, result.stderr)
        assert result.stdout
    assert list((tmp_path / "generated").rglob("*.json"))


def test_without_an_extra_every_command_of_the_runtime_says_which(plain: Environment, tmp_path: Path) -> None:
    models = str(onnx_folder(tmp_path))
    (tmp_path / "x.json").write_text("{}")
    settings = ("--settings", "x.json")
    commands: dict[str, tuple[tuple[str, ...], str]] = {
        "serve": (("--model-repository", models), "runtime"),
        "check": (("--model-repository", models), "runtime"),
        "key": (("--client", "shop"), "runtime"),
        "openapi": ((), "runtime"),
        "detect": (("--env", "prod", "--model", "m", "--series", str(series(tmp_path))), "detect"),
        "watch": (settings, "detect"),
        "gate": (settings, "detect"),
        "replay": (("x.json",), "detect"),
    }
    for name, (arguments, extra) in commands.items():
        done = plain.run("modelway-runtime", name, *arguments, cwd=tmp_path)
        assert is_lacking(done, extra), (name, done.returncode, done.stderr)
    works = {"completion": ("bash",), "fetch": ("--source", series(tmp_path).as_uri(), "--to", "here")}
    for name, arguments in works.items():
        done = plain.run("modelway-runtime", name, *arguments, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (0, ""), (name, done.stderr)
    assert {*commands, *works} == set(runtime.commands)
    remote = plain.run("modelway-runtime", "fetch", "--source", "s3://b/x.onnx", "--to", "here", cwd=tmp_path)
    assert remote.returncode == 5
    assert "needs aiohttp: pip install 'modelway[runtime]'" in remote.stderr
    assert len(remote.stderr.splitlines()) == 1


def test_with_detect_the_detector_works_and_the_server_says_what_it_lacks(
    detector: Environment, tmp_path: Path
) -> None:
    done = judged(detector, tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    (verdict,) = (tmp_path / "saved").glob("*.json")
    again = detector.run("modelway-runtime", "replay", str(verdict), cwd=tmp_path)
    assert (again.returncode, again.stdout) == (0, "the same verdict\n")
    assert detector.run("modelway-runtime", "key", "--client", "shop", cwd=tmp_path).returncode == 0
    (tmp_path / "x.json").write_text("{}")
    for name in ("watch", "gate"):
        done = detector.run("modelway-runtime", name, "--settings", "x.json", cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith("error: the settings are wrong: ")
    models = str(onnx_folder(tmp_path))
    for arguments in (
        ("serve", "--model-repository", models),
        ("check", "--model-repository", models),
        ("openapi",),
    ):
        done = detector.run("modelway-runtime", *arguments, cwd=tmp_path)
        assert is_lacking(done, "runtime"), (arguments, done.stderr)
    (tmp_path / "a.parquet").write_bytes(b"PAR1")
    arguments = ("--env", "prod", "--model", "ranker", "--series", "a.parquet", "--at", AT)
    done = detector.run("modelway-runtime", "detect", *arguments, cwd=tmp_path)
    assert done.returncode == 5
    assert "Parquet needs pyarrow: pip install 'modelway[detect,parquet]', or give a CSV" in done.stderr


def test_with_runtime_the_server_works_and_the_detector_says_what_it_lacks(
    server: Environment, tmp_path: Path
) -> None:
    with served(server, onnx_folder(tmp_path), tmp_path) as ports:
        x = np.ones((1, serving.MLP_INPUTS), np.float32)
        answer = answer_of(ports["http"], x)
        np.testing.assert_allclose(answer, serving.mlp_answer(x).ravel(), rtol=1e-4)
    for arguments in (("openapi",), ("key", "--client", "shop"), ("check", "--model-repository", "models")):
        done = server.run("modelway-runtime", *arguments, cwd=tmp_path)
        assert done.returncode == 0, (arguments, done.stderr)
    assert is_lacking(judged(server, tmp_path), "detect")
    (tmp_path / "x.json").write_text("{}")
    for arguments in (
        ("watch", "--settings", "x.json"),
        ("gate", "--settings", "x.json"),
        ("replay", "x.json"),
    ):
        done = server.run("modelway-runtime", *arguments, cwd=tmp_path)
        assert is_lacking(done, "detect"), (arguments, done.returncode, done.stderr)


def test_torch_weights_without_torch_are_one_model_that_is_not_served(
    server: Environment, tmp_path: Path
) -> None:
    models = with_torch_weights(tmp_path)
    needs = "this model needs torch: pip install 'modelway[runtime,torch]'"
    checked = server.run("modelway-runtime", "check", "--model-repository", str(models), cwd=tmp_path)
    assert checked.returncode == 1
    assert "ok: mlp 1" in checked.stdout
    assert f"error: net 1: {needs}\n" in checked.stdout
    assert "Traceback" not in checked.stderr
    done = server.run("modelway-runtime", "serve", "--model-repository", str(models), *FREE, cwd=tmp_path)
    assert done.returncode == 5
    assert done.stderr.endswith(f"error: net 1: {needs}\n")
    assert "Traceback" not in done.stderr


def test_torch_weights_that_come_later_do_not_end_the_server(server: Environment, tmp_path: Path) -> None:
    models = onnx_folder(tmp_path)
    with served(server, models, tmp_path) as ports:
        with_torch_weights(tmp_path)
        status, _ = ask(ports["http"], "POST", "/v2/repository/models/net/load", {})
        assert 400 <= status < 600
        x = np.ones((1, serving.MLP_INPUTS), np.float32)
        np.testing.assert_allclose(answer_of(ports["http"], x), serving.mlp_answer(x).ravel(), rtol=1e-4)


def test_a_restart_without_its_extra_is_a_failed_restart(detector: Environment, tmp_path: Path) -> None:
    program = """
from types import SimpleNamespace
from modelway_runtime.detection.restart import RestartFailed, respond_restart
try:
    respond_restart(SimpleNamespace(workload="Deployment", namespace="n", job="j"), "2026-11-21T12:00:00Z")
except RestartFailed as error:
    print(error)
"""
    done = detector.run("python", "-c", program, cwd=tmp_path)
    assert done.stdout == (
        "the response `restart` needs kubernetes: pip install 'modelway[detect,restart]'\n"
    ), done.stderr


# The last resort


def test_our_own_fault_says_how_to_report_it(detector: Environment, tmp_path: Path) -> None:
    (tmp_path / "scipy.py").write_text("raise ValueError('broken')")
    arguments = ("detect", "--env", "prod", "--model", "m", "--series", str(series(tmp_path)))
    fault = "modelway-runtime: this is our fault, not yours: ValueError: broken\n"
    done = detector.run("modelway-runtime", *arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert (done.returncode, done.stdout) == (4, "")
    assert done.stderr == fault + "Please report it with the output under MODELWAY_TRACEBACK=1.\n"
    more = {"PYTHONPATH": str(tmp_path), "MODELWAY_TRACEBACK": "1"}
    done = detector.run("modelway-runtime", *arguments, cwd=tmp_path, **more)
    assert done.returncode == 4
    assert done.stderr.startswith(fault + "Traceback (most recent call last):\n")


def test_a_server_s_own_fault_is_in_its_log(server: Environment, tmp_path: Path) -> None:
    (tmp_path / "uvloop.py").write_text("raise ValueError('broken')")
    arguments = ("serve", "--model-repository", str(onnx_folder(tmp_path)), *FREE)
    done = server.run("modelway-runtime", *arguments, cwd=tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 4
    line = json.loads(done.stderr.splitlines()[-1])
    assert line["level"] == "critical"
    assert line["message"].startswith("this is our fault, not yours: ValueError: broken")
    assert "uvloop.py" in line["exception"]
