"""``modelway-runtime``: what it prints, what it refuses, how it exits."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import serving

ROOT = Path(__file__).parents[3]


def run(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "modelway_runtime", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime"), **environment},
    )


def test_help_names_every_command_and_costs_no_engine() -> None:
    done = run("--help")
    assert done.returncode == 0
    for command in ("serve", "check", "fetch", "key", "openapi", "completion"):
        assert f"  {command} " in done.stdout
    probe = "import sys; import modelway_runtime.cli; print([m for m in ('torch', 'onnxruntime', 'grpc', 'numpy') if m in sys.modules])"
    imported = subprocess.run(
        [sys.executable, "-c", probe],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "runtime")},
    )
    assert imported.stdout.strip() == "[]"


@pytest.mark.parametrize("command", ["serve", "check"])
@pytest.mark.parametrize("arguments", [[], ["--settings", "x.json"], ["--nonsense"]])
def test_wrong_usage_exits_2(command: str, arguments: list[str]) -> None:
    done = run(command, *arguments)
    assert done.returncode == 2
    assert "Usage:" in done.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "truncated"),
        ("{", "truncated"),
        ("[]", "Expected `object`"),
        ('{"schema": 2}', "$.schema"),
        ('{"schema": 1, "extra": 1}', "extra"),
        (b"\xff\xfe", "malformed"),
    ],
)
def test_wrong_settings_name_the_field(tmp_path: Path, text: str | bytes, words: str) -> None:
    file = tmp_path / "settings.json"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    for command in ("serve", "check"):
        done = run(command, "--settings", str(file))
        assert done.returncode == 1
        assert words in done.stderr
        assert str(file) in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("Bad_Name/1/model.onnx", b"x", "lower-case"),
        ("ranker/readme.txt", b"x", "has no version"),
        ("ranker/model.json", b'{"versions": ["9"]}', "no version"),
    ],
)
def test_a_wrong_folder_says_what_to_do(tmp_path: Path, path: str, content: bytes, words: str) -> None:
    (tmp_path / path).parent.mkdir(parents=True)
    (tmp_path / path).write_bytes(content)
    done = run("check", "--model-repository", str(tmp_path))
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_an_empty_folder_says_what_to_do(tmp_path: Path) -> None:
    done = run("serve", "--model-repository", str(tmp_path))
    assert done.returncode == 1
    assert "model.onnx" in done.stderr


def test_check_says_what_can_be_served(tmp_path: Path) -> None:
    serving.write_model(tmp_path, "good", serving.identity("FP32", ("rows", 2)))
    done = run("check", "--model-repository", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("ok: good 1 on cpu")
    bad = tmp_path / "bad" / "1" / "model.onnx"
    bad.parent.mkdir(parents=True)
    bad.write_bytes(b"this is no model")
    done = run("check", "--model-repository", str(tmp_path), "--json")
    assert done.returncode == 1
    results = {result["name"]: result for result in json.loads(done.stdout)}
    assert results["good"]["error"] is None
    assert results["good"]["inputs"] == {"x": "FP32 [-1, 2]"}
    assert "cannot load" in results["bad"]["error"]
    assert "Traceback" not in done.stderr


def test_fetch_verifies_and_names(tmp_path: Path) -> None:
    source = tmp_path / "weights.bin"
    source.write_bytes(b"weights" * 1000)
    digest = "sha256:" + hashlib.sha256(source.read_bytes()).hexdigest()
    arguments = ["fetch", "--source", source.as_uri(), "--to", str(tmp_path / "to"), "--name", "model.onnx"]
    done = run(*arguments, "--digest", digest, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["path"] == str(tmp_path / "to" / "model.onnx")
    assert (tmp_path / "to" / "model.onnx").read_bytes() == source.read_bytes()
    (tmp_path / "to" / "model.onnx").unlink()
    done = run(*arguments, "--digest", "sha256:" + "0" * 64)
    assert done.returncode == 5
    assert "sha256:" in done.stderr
    assert list((tmp_path / "to").iterdir()) == []
    for wrong in ("ftp://host/x", "nonsense", "file:///nowhere/at/all"):
        done = run("fetch", "--source", wrong, "--to", str(tmp_path / "to"))
        assert done.returncode == 5
        assert done.stderr.startswith("error: ")
        assert "Traceback" not in done.stderr


def test_a_key_and_its_entry_fit(tmp_path: Path) -> None:
    done = run("key", "--client", "checkout", "--model", "ranker", "--requests-per-second", "5")
    secret, entry = done.stdout.strip(), json.loads(done.stderr)
    assert entry["sha256"] == hashlib.sha256(secret.encode()).hexdigest()
    assert len(secret) > 40
    assert (entry["client"], entry["models"], entry["requests_per_second"]) == ("checkout", ["ranker"], 5)
    assert run("key", "--client", "checkout").stdout.strip() != secret


def test_openapi_and_completion_are_printed() -> None:
    assert json.loads(run("openapi").stdout)["openapi"] == "3.1.0"
    for shell in ("bash", "zsh", "fish"):
        assert "modelway-runtime" in run("completion", shell).stdout


def test_a_taken_port_is_said(tmp_path: Path) -> None:
    serving.write_model(tmp_path, "same", serving.identity("FP32", ("rows", 2)))
    with serving.serving_folder(tmp_path) as server:
        for option, port in (
            ("--http-port", server.http_port),
            ("--metrics-port", server.metrics_port),
            ("--grpc-port", server.grpc_port),
        ):
            free = {"--http-port": "0", "--grpc-port": "0", "--metrics-port": "0", option: str(port)}
            done = run(
                "serve",
                "--model-repository",
                str(tmp_path),
                *(part for pair in free.items() for part in pair),
            )
            assert done.returncode == 5, done.stderr
            assert f"port {port}" in done.stderr
            assert "Traceback" not in done.stderr
