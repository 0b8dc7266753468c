"""The server lives beside the clients of its protocol, whichever of their protobufs is installed.

pip takes the newest protobuf that a client allows, below what is there: `pip install 'tritonclient[grpc]'` after
the server takes version 7 back to 6. The oldest that is promised must serve.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from packaging.requirements import Requirement

from tests.install.environments import ROOT, closure, make, served, shared_folder
from tests.support import serving
from tests.support.tools import missing

# What the newest kserve asks for (0.21.0 at PyPI); it is not installed here.
KSERVE = Requirement("protobuf>=6.33.5,<7.0.0")


def promised() -> Requirement:
    """What the server asks for."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    (requirement,) = [one for one in map(Requirement, extras["serving"]) if one.name == "protobuf"]
    return requirement


def lowest(requirement: Requirement) -> str:
    (version,) = [one.version for one in requirement.specifier if one.operator == ">="]
    return version


def asked_for(distributions: list[metadata.Distribution]) -> list[tuple[str, Requirement]]:
    """Who asks for which protobuf."""
    return [
        (distribution.metadata["Name"], requirement)
        for distribution in distributions
        for requirement in map(Requirement, distribution.requires or ())
        if requirement.name == "protobuf"
        and (requirement.marker is None or requirement.marker.evaluate({"extra": "grpc"}))
    ]


@pytest.fixture(scope="module")
def oldest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the oldest protobuf that is promised, for PYTHONPATH."""
    folder = tmp_path_factory.mktemp("protobuf")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps"]
    version = lowest(promised())
    version += ".0" * (2 - version.count("."))
    done = subprocess.run(
        [*pip, "--target", folder, f"protobuf=={version}"], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        missing(f"pip cannot install protobuf {version}: {done.stderr[-300:]}")
    return folder


def test_the_clients_and_the_server_agree_on_a_protobuf() -> None:
    server = closure(metadata.distribution("modelway"), ["runtime"])
    client = [metadata.distribution("tritonclient")]
    everyone = [*asked_for([*server, *client]), ("modelway", promised()), ("kserve", KSERVE)]
    assert {"tritonclient", "modelway"} <= {name for name, _ in everyone}
    installed = metadata.version("protobuf")
    for name, requirement in everyone:
        assert requirement.specifier.contains(installed), (name, requirement)
    # Nobody's lowest is below what is promised, which is therefore the lowest that pip can come to.
    for requirement in (KSERVE, *(one for name, one in everyone if name == "tritonclient")):
        assert promised().specifier.contains(lowest(requirement)), requirement


def test_no_package_of_the_server_is_generated_for_a_newer_protobuf() -> None:
    """Of those that are loaded when it serves; code for Google's stores is loaded for them alone."""
    names = {one.metadata["Name"] for one in closure(metadata.distribution("modelway"), ["runtime"])}
    assert "grpcio" in names
    assert not names & {"grpcio-health-checking", "grpcio-reflection", "grpcio-tools"}


def test_the_server_serves_with_the_oldest_protobuf(
    oldest: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    environment = make(shared_folder(tmp_path_factory), "runtime")
    serving.write_model(tmp_path / "models", "mlp", serving.mlp())
    # An exporter of traces that nobody answers: its messages are generated code.
    variables = {"PYTHONPATH": str(oldest), "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9"}
    with served(environment, tmp_path / "models", tmp_path, **variables) as ports:
        address = f"127.0.0.1:{ports['grpc']}"
        x = np.ones((2, serving.MLP_INPUTS), np.float32)
        tensor = triton.InferInput("input", list(x.shape), "FP32")
        tensor.set_data_from_numpy(x)
        with triton.InferenceServerClient(address) as client:
            answer = client.infer("mlp", [tensor]).as_numpy("output")
            assert client.get_model_metadata("mlp").name == "mlp"
        np.testing.assert_allclose(answer, serving.mlp_answer(x), rtol=1e-4)
        with grpc.insecure_channel(address) as channel:
            health = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest())
            assert health.status == health_pb2.HealthCheckResponse.SERVING
            services = ProtoReflectionDescriptorDatabase(channel).get_services()
            assert "inference.GRPCInferenceService" in services
    used = [sys.executable, "-c", "import google.protobuf as p; print(p.__version__)"]
    version = subprocess.run(used, env=variables, capture_output=True, text=True, check=True).stdout.strip()
    assert version.startswith(lowest(promised()))


def test_the_server_serves_after_the_client_is_installed_beside_it(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """The guide's order, in the versions of constraints.txt: one environment holds both."""
    environment = make(shared_folder(tmp_path_factory), "runtime", beside="tritonclient[grpc]")
    serving.write_model(tmp_path / "models", "mlp", serving.mlp())
    with served(environment, tmp_path / "models", tmp_path) as ports:
        program = (
            "import tritonclient.grpc as triton;"
            f"client = triton.InferenceServerClient('127.0.0.1:{ports['grpc']}');"
            "print(client.is_model_ready('mlp'));client.close()"
        )
        done = environment.run("python", "-c", program, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "True\n"), done.stderr
