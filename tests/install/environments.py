"""Environments as a user has them: the wheel, and what the extras that he named bring; made without a network.

An environment is a venv without pip, into whose packages the files of this environment's packages are linked: of
those alone that the wheel requires with these extras, and of what they require themselves.
"""

from __future__ import annotations

import fcntl
import http.client
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.support.serving import STARTS_IN_S

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("LICENSE", "README.md", "pyproject.toml", "compiler/modelway", "runtime/modelway_runtime")


@dataclass(frozen=True)
class Environment:
    """``folder`` is the venv."""

    folder: Path

    def run(
        self, *command: str, cwd: Path, timeout_s: float = 180, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """A console script of the environment and its arguments, with nothing of this environment."""
        script, *arguments = command
        return subprocess.run(
            [self.folder / "bin" / script, *arguments],
            cwd=cwd,
            env=self.variables(**variables),
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    def variables(self, **more: str) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": os.environ["HOME"], "COLUMNS": "200", **more}


def make(root: Path, *extras: str, beside: str = "") -> Environment:
    """The environment of these extras below ``root``; made once, whichever process asks first.

    ``beside`` is one more requirement, which the user has installed himself.
    """
    folder = root / ("-".join([*extras, *filter(None, [beside])]) or "plain")
    with open(root / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "made").exists():
            wheel = next(iter(root.glob("*.whl")), None) or build(root)
            packages = _make(folder, wheel)
            own = metadata.Distribution.at(next(packages.glob("modelway-*.dist-info")))
            for distribution in [*closure(own, extras), *(_beside(Requirement(beside)) if beside else ())]:
                _link(distribution, packages)
            (folder / "made").touch()
    return Environment(folder)


def shared_folder(factory: pytest.TempPathFactory) -> Path:
    """One folder for all processes of a test run."""
    own = factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "environments"
    folder.mkdir(exist_ok=True)
    return folder


def build(target: Path) -> Path:
    """The wheel, by the back end of pyproject.toml, from what it packs alone."""
    source = target / "source"
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            source.mkdir(exist_ok=True)
            shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(target)]
    subprocess.run(command, cwd=source, check=True, capture_output=True)
    (wheel,) = target.glob("*.whl")
    return wheel


def _make(folder: Path, wheel: Path) -> Path:
    """A venv with the wheel alone; where its packages are."""
    shutil.rmtree(folder, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    install = ["--quiet", "--no-deps", "--no-index", "--no-compile", str(wheel)]
    pip = [
        sys.executable,
        "-m",
        "pip",
        "--disable-pip-version-check",
        "--python",
        str(folder / "bin" / "python"),
    ]
    subprocess.run([*pip, "install", *install], check=True, capture_output=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    return packages


def _beside(requirement: Requirement) -> list[metadata.Distribution]:
    distribution = metadata.distribution(requirement.name)
    return [distribution, *closure(distribution, requirement.extras)]


def closure(of: metadata.Distribution, extras: Iterable[str]) -> list[metadata.Distribution]:
    """What a distribution requires with these extras, and all that this requires, as far as it is installed."""
    own = canonicalize_name(of.metadata["Name"])
    waiting: list[tuple[metadata.Distribution, frozenset[str]]] = [(of, frozenset(extras))]
    seen: set[tuple[str, frozenset[str]]] = set()
    required: dict[str, metadata.Distribution] = {}
    while waiting:
        distribution, wanted = waiting.pop()
        for requirement in map(Requirement, distribution.requires or ()):
            marker = requirement.marker
            if marker and not any(marker.evaluate({"extra": extra}) for extra in ("", *wanted)):
                continue
            name = canonicalize_name(requirement.name)
            key = (name, frozenset(requirement.extras))
            if key in seen:
                continue
            seen.add(key)
            # The wheel itself, for an extra of an extra; this environment's own is installed editable.
            next_one = of if name == own else metadata.distribution(name)
            if name != own:
                required[name] = next_one
            waiting.append((next_one, key[1]))
    return list(required.values())


def _link(distribution: metadata.Distribution, packages: Path) -> None:
    """Compiled files too, as far as they are beside their sources."""
    for file in distribution.files or ():
        if ".." in file.parts:
            continue
        target = packages / file
        target.parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):  # two packages of one namespace may both bring it
            os.symlink(distribution.locate_file(file), target)


FREE = ("--http-port", "0", "--grpc-port", "0", "--metrics-port", "0")


@contextmanager
def served(
    environment: Environment, models: Path, folder: Path, **variables: str
) -> Iterator[dict[str, Any]]:
    """The ports of a server that is ready; it must end well."""
    log = folder / "server.log"
    with open(log, "wb") as stream:
        process = subprocess.Popen(
            [environment.folder / "bin" / "modelway-runtime", "serve", "--model-repository", models, *FREE],
            cwd=folder,
            env=environment.variables(**variables),
            stderr=stream,
            stdout=subprocess.DEVNULL,
        )
    try:
        ports = _ready(process, log)
        yield ports
        process.terminate()
        assert process.wait(30) == 0, log.read_text()
    finally:
        process.kill()
        process.wait()


def _ready(process: subprocess.Popen[bytes], log: Path) -> dict[str, Any]:
    end = time.monotonic() + STARTS_IN_S
    while time.monotonic() < end and process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith('{"listening"'):
                ports: dict[str, Any] = json.loads(line)["listening"]
                if ask(ports["http"], "GET", "/v2/health/ready")[0] == 200:
                    return ports
        time.sleep(0.05)
    raise AssertionError(f"the server did not become ready:\n{log.read_text()}")


def ask(port: int, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read() or b"null")
    finally:
        connection.close()
