"""The peers of the server: which are installed, how each is started, and in which form it is asked.

Each runs with one thread of onnxruntime, one instance, and, where it has it, once more with batching of
its own: up to 32 rows, its smallest delay. Their programs are in ``servers/``.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sysconfig
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from measure import FailedError
from processes import HOST, Address, free_ports, running
from serving_models import Model

SERVERS = Path(__file__).resolve().with_name("servers")
ROWS = 32
REST = {"json": "json", "binary": "binary"}
ALL = {**REST, "grpc": "grpc"}


@dataclass(frozen=True, slots=True)
class Place:
    """Where one peer runs: the folder of its programs, the model, a folder of its own, its ports."""

    programs: Path
    model: Model
    folder: Path
    ports: list[int]
    rows: int

    def python(self, *arguments: object) -> list[str]:
        return [str(self.programs / "python"), *map(str, arguments)]

    @property
    def site_packages(self) -> Path:
        return next((self.programs.parent / "lib").glob("python3.*/site-packages"))

    @property
    def environment(self) -> dict[str, str]:
        own = {
            "PATH": f"{self.programs}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": str(SERVERS),
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "TMPDIR": str(self.folder),
            "MODEL_NAME": self.model.name,
            "MODEL_FILE": str(self.model.path),
            "HTTP_PORT": str(self.ports[0]),
            "GRPC_PORT": str(self.ports[1]),
            "BATCH_ROWS": str(self.rows),
        }
        return {**os.environ, **own}


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer. ``forms``: the nearest it has to each of the protocol's. ``command`` writes its files."""

    name: str
    packages: tuple[str, ...]
    forms: Mapping[str, str]
    command: Callable[[Place], list[str]]
    batches: bool = True
    more: Callable[[Place], dict[str, str]] = lambda _: {}


@dataclass(frozen=True, slots=True)
class Installed:
    """A peer with the programs that have it; ``rows`` above 1: with batching of its own."""

    peer: Peer
    programs: Path
    version: str
    rows: int

    @property
    def name(self) -> str:
        return self.peer.name + (" batching" if self.rows > 1 else "")

    @contextlib.contextmanager
    def running(self, model: Model, folder: Path) -> Iterator[tuple[subprocess.Popen[bytes], Address]]:
        """The peer's process and its ports; it need not answer yet."""
        folder.mkdir()
        place = Place(self.programs, model, folder, free_ports(), self.rows)
        environment = {**place.environment, **self.peer.more(place)}
        try:
            with running(self.peer.command(place), folder, environment) as process:
                yield process, Address(place.ports[0], place.ports[1])
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _script(name: str) -> Callable[[Place], list[str]]:
    return lambda place: place.python(SERVERS / name)


def _fastapi(place: Place) -> list[str]:
    options = ["--host", HOST, "--port", place.ports[0], "--loop", "uvloop", "--http", "httptools"]
    quiet = ["--no-access-log", "--log-level", "error"]
    return place.python("-m", "uvicorn", *options, *quiet, "fastapi_server:app")


def _mlserver(place: Place) -> list[str]:
    http, grpc, metrics, *_ = place.ports
    server = {"host": HOST, "http_port": http, "grpc_port": grpc, "metrics_port": metrics}
    off = {"debug": False, "parallel_workers": 0}
    (place.folder / "settings.json").write_text(json.dumps({**server, **off}))
    model: dict[str, object] = {
        "name": place.model.name,
        "implementation": "mlserver_model.Onnx",
        "parameters": {"version": "1"},
        "inputs": [{"name": "input", "datatype": "FP32", "shape": [-1, *place.model.row.shape[1:]]}],
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [-1, *place.model.expected.shape[1:]]}],
    }
    if place.rows > 1:
        model |= {"max_batch_size": place.rows, "max_batch_time": 0.001}
    (place.folder / "model-settings.json").write_text(json.dumps(model))
    return [str(place.programs / "mlserver"), "start", str(place.folder)]


def _bentoml(place: Place) -> list[str]:
    program = str(place.programs / "bentoml")
    service = ["bento_server:Onnx", "--working-dir", str(SERVERS)]
    return [program, "serve", *service, "--host", HOST, "--port", str(place.ports[0])]


def _mosec(place: Place) -> list[str]:
    where = ["--address", HOST, "--port", place.ports[0], "--path", place.folder / "sockets"]
    return place.python(SERVERS / "mosec_server.py", *where, "--log-level", "error", "--timeout", 30000)


def _ray(place: Place) -> list[str]:
    return place.python(SERVERS / "ray_server.py", place.folder / "ray")


def _torchserve(place: Place) -> list[str]:
    name, store = place.model.name, place.folder / "store"
    store.mkdir()
    handler = ["--handler", str(SERVERS / "torchserve_handler.py"), "--export-path", str(store)]
    archiver = [str(place.programs / "torch-model-archiver"), "--model-name", name, "--version", "1.0"]
    packed = subprocess.run(
        [*archiver, *handler], env=place.environment, capture_output=True, text=True, check=False
    )
    if packed.returncode:
        raise FailedError(f"torch-model-archiver failed: {packed.stderr.strip()[-500:]}")
    workers = {"marName": f"{name}.mar", "minWorkers": 1, "maxWorkers": 1, "defaultVersion": True}
    batching = {"batchSize": place.rows, "maxBatchDelay": 1, "responseTimeout": 60}
    http, grpc, management, metrics, grpc_management, *_ = place.ports
    options = {
        "inference_address": f"http://{HOST}:{http}",
        "management_address": f"http://{HOST}:{management}",
        "metrics_address": f"http://{HOST}:{metrics}",
        "grpc_inference_port": grpc,
        "grpc_management_port": grpc_management,
        "disable_token_authorization": "true",
        "model_store": store,
        "load_models": f"{name}.mar",
        "models": json.dumps({name: {"1.0": {**workers, **batching}}}),
        "job_queue_size": 1000,
        "default_response_timeout": 60,
    }
    config, log = place.folder / "config.properties", place.folder / "log4j2.xml"
    config.write_text("".join(f"{key}={value}\n" for key, value in options.items()))
    log.write_text('<Configuration status="OFF"><Loggers><Root level="OFF"/></Loggers></Configuration>')
    files = ["--model-store", str(store), "--ts-config", str(config), "--log-config", str(log)]
    return [str(place.programs / "torchserve"), "--start", "--foreground", "--ncs", *files]


def _triton(place: Place) -> list[str]:
    """The binary inside the wheel. Its Python backend looks for the stub beside itself."""
    tritonserver = place.site_packages / "pytriton" / "tritonserver"
    version = place.site_packages.parent.name.removeprefix("python")
    backend = place.folder / "backends" / "python"
    backend.mkdir(parents=True)
    for path in (tritonserver / "backends" / "python").iterdir():
        if path.is_file():
            (backend / path.name).symlink_to(path)
    stub = tritonserver / "python_backend_stubs" / version / "triton_python_backend_stub"
    (backend / stub.name).symlink_to(stub)
    repository = place.folder / "models"
    _triton_model(place, repository / place.model.name)
    http, grpc, *_ = place.ports
    return [
        str(tritonserver / "bin" / "tritonserver"),
        f"--model-repository={repository}",
        f"--backend-directory={backend.parent}",
        *(f"--http-address={HOST}", f"--http-port={http}", "--http-thread-count=4"),
        *(f"--grpc-address={HOST}", f"--grpc-port={grpc}"),
        *("--allow-metrics=false", "--log-info=false"),
    ]


def _triton_model(place: Place, folder: Path) -> None:
    (folder / "1").mkdir(parents=True)
    shutil.copy(SERVERS / "triton_model.py", folder / "1" / "model.py")
    shutil.copy(SERVERS / "common.py", folder / "1")
    taken, given = (list(array.shape[1:]) for array in (place.model.row, place.model.expected))
    batching = "dynamic_batching { max_queue_delay_microseconds: 0 }\n" if place.rows > 1 else ""
    (folder / "config.pbtxt").write_text(
        f'name: "{place.model.name}"\nbackend: "python"\nmax_batch_size: {ROWS}\n'
        f'input [{{ name: "input" data_type: TYPE_FP32 dims: {taken} }}]\n'
        f'output [{{ name: "output" data_type: TYPE_FP32 dims: {given} }}]\n'
        f"instance_group [{{ kind: KIND_CPU count: 1 }}]\n{batching}"
    )


def _triton_environment(place: Place) -> dict[str, str]:
    """Its stub needs the packages of the environment, and the library of a Python."""
    base = (place.programs / "python").resolve().parent.parent / "lib"
    return {
        "PYTHONPATH": f"{place.site_packages}{os.pathsep}{SERVERS}",
        "LD_LIBRARY_PATH": f"{base}{os.pathsep}{sysconfig.get_config_var('LIBDIR')}",
    }


def _bento_environment(place: Place) -> dict[str, str]:
    return {"BENTOML_DO_NOT_TRACK": "true", "BENTOML_HOME": str(place.folder / "home")}


PREDICTIONS = {"json": "predictions-json", "binary": "predictions-plain"}
PEERS = (
    Peer("KServe SDK", ("kserve",), ALL, _script("kserve_server.py"), batches=False),
    Peer("MLServer", ("mlserver",), {"json": "json", "grpc": "grpc"}, _mlserver),
    Peer("LitServe", ("litserve",), {"json": "json"}, _script("litserve_server.py")),
    Peer("BentoML", ("bentoml",), {"json": "nested"}, _bentoml, more=_bento_environment),
    Peer("mosec", ("mosec",), {"json": "json", "binary": "plain"}, _mosec),
    Peer("Triton", ("nvidia-pytriton",), ALL, _triton, more=_triton_environment),
    Peer("Ray Serve", ("ray",), REST, _ray),
    Peer("FastAPI", ("fastapi", "uvicorn", "uvloop", "httptools"), {"json": "json"}, _fastapi, batches=False),
    Peer("TorchServe", ("torchserve", "torch-model-archiver"), PREDICTIONS, _torchserve),
)


def find(folder: Path | None) -> tuple[list[Installed], list[Peer]]:
    """The peers in virtual environments below ``folder``, with and without batching; and those not there."""
    pythons = [] if folder is None else sorted([*folder.glob("bin/python"), *folder.glob("*/bin/python")])
    versions = {python.parent: _versions(python) for python in pythons}
    installed, missing = [], []
    for peer in PEERS:
        having = (
            programs
            for programs, known in versions.items()
            if {*peer.packages, "onnxruntime"} <= known.keys()
        )
        if (programs := next(having, None)) is None:
            missing.append(peer)
            continue
        version = versions[programs][peer.packages[0]]
        rows = (1, ROWS) if peer.batches else (1,)
        installed += [Installed(peer, programs, version, one) for one in rows]
    return installed, missing


def _versions(python: Path) -> dict[str, str]:
    """The packages of an interpreter; none if it cannot be run."""
    asked = (
        "import json; from importlib.metadata import distributions as d; "
        "print(json.dumps({o.metadata['Name'].lower(): o.version for o in d()}))"
    )
    answer = subprocess.run([python, "-c", asked], capture_output=True, text=True, check=False)
    return dict(json.loads(answer.stdout)) if answer.returncode == 0 else {}
