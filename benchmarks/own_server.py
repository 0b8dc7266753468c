"""The runtime as a process: started with settings of its own or on a folder of models."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from load import exchange
from processes import HOST, Address, running, wait_until

START_S = 60.0
MODULE = [sys.executable, "-m", "modelway_runtime"]


@dataclass(frozen=True, slots=True)
class Key:
    """An API key; ``entry`` is what the keys file has of it."""

    secret: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.secret}"}

    def write(self, path: Path, models: Sequence[str], *, admin: bool = False) -> None:
        """A keys file. The limits are on, and so high that no run reaches them."""
        entry = {
            "client": "benchmark",
            "sha256": hashlib.sha256(self.secret.encode()).hexdigest(),
            "models": list(models),
            "requests_per_second": 1e6,
            "burst": None,
            "admin": admin,
            "expires": None,
        }
        path.write_text(json.dumps({"keys": [entry]}))
        path.chmod(0o600)


@dataclass(frozen=True, slots=True)
class OwnServer:
    """A server that is ready."""

    process: subprocess.Popen[bytes]
    address: Address
    log: Path
    started_s: float

    def load(self, model: str, key: Key) -> tuple[int, str]:
        """Have it load a model of its folder anew; status and text of the answer."""
        path = f"/v2/repository/models/{model}/load"
        return exchange(self.address.http, "POST", path, headers=key.headers)


def digest(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def served(name: str, weights: Path, *, timeout_ms: float = 10_000, version: str = "1") -> dict[str, Any]:
    """A model of the settings: one instance, batches of up to 32 rows, no delay."""
    return {
        "name": name,
        "version": version,
        "source": f"file://{weights}",
        "format": "onnx",
        "digest": digest(weights),
        "lineage_digest": None,
        "inputs": {},
        "outputs": {},
        "rows": None,
        "instances": 1,
        "warm_up": {"rows": [1, 8, 32]},
        "batching": {"max_rows": 32, "max_delay_ms": 0, "preferred_rows": []},
        "queue": {"max_rows": 1024, "timeout_ms": timeout_ms},
        "cache": {"max_bytes": 0, "ttl_s": 0},
    }


def repository_arguments(folder: Path, models: Path, key: Key) -> list[str]:
    """The arguments for a folder of models whose models ``key`` may load."""
    keys = folder / "keys.json"
    key.write(keys, [path.name for path in models.iterdir()], admin=True)
    return ["--model-repository", str(models), "--api-keys", str(keys), "--threads", "1"]


def write_settings(folder: Path, model: dict[str, Any], key: Key, in_flight: int = 256) -> Path:
    """Settings as in production: API key, audit log, limits and metrics on; one thread for a computation."""
    keys = folder / "keys.json"
    key.write(keys, [model["name"]])
    buckets = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10]
    settings = {
        "schema": 1,
        "environment": "benchmark",
        "team": "benchmark",
        "model": model["name"],
        "served": [model],
        "standby": None,
        "device": {"providers": ["cpu"], "allow_cpu": True, "threads": 1, "options": {}},
        "http": {"port": 0},
        "grpc": {"port": 0},
        "metrics": {"port": 0, "latency_buckets_s": buckets},
        "limits": {"request_bytes": 16 * 2**20, "in_flight": in_flight},
        "auth": {"mode": "api_key", "keys_file": str(keys)},
        "tls": None,
        "audit": {"enabled": True, "mask": []},
        "drain_s": 2,
    }
    path = folder / "settings.json"
    path.write_text(json.dumps(settings))
    return path


@contextlib.contextmanager
def own_server(
    folder: Path, *arguments: str, stdout: int | IO[bytes], http_port: int = 0
) -> Iterator[OwnServer]:
    """``serve`` with these arguments, once it is ready. ``stdout`` takes the audit log.

    Raises FailedError with the end of the log if it does not get ready.
    """
    ports = ["--host", HOST, "--http-port", str(http_port), "--grpc-port", "0", "--metrics-port", "0"]
    command = [*MODULE, "serve", *arguments, *ports, "--log-format", "json"]
    log = folder / "log"
    at = log.stat().st_size if log.exists() else 0
    environment = {**os.environ, "TMPDIR": str(folder)}
    with running(command, folder, environment, stdout) as process:
        took = wait_until(lambda: _ready(log, at), process, log, START_S)
        address = _address(log, at)
        assert address is not None
        yield OwnServer(process, address, log, took)


@contextlib.contextmanager
def drained_pipe() -> Iterator[IO[bytes]]:
    """A pipe for an audit log as in a pod; a process reads it and does nothing with it."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as reader:
        assert reader.stdin is not None
        yield reader.stdin


def _ready(log: Path, at: int) -> bool:
    address = _address(log, at)
    return address is not None and exchange(address.http, "GET", "/v2/health/ready")[0] == 200


def _address(log: Path, at: int) -> Address | None:
    """The ports that the server said it has."""
    for line in log.read_bytes()[at:].splitlines():
        if line.startswith(b'{"listening"'):
            ports = json.loads(line)["listening"]
            return Address(ports["http"], ports["grpc"])
    return None
